"""Signatures of folders: only the folder that was signed, with the key that signed it, is accepted."""

import pytest

from composer import extras
from composer.errors import MissingExtraError, RecipeError, SignatureError
from composer.formats.signing import sign, verify
from registry.errors import NotFoundError

pytest.importorskip("model_signing.signing", reason="the extra `sign` is not installed", exc_type=ImportError)
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def write_keys(folder, private=None, password=None):
    """Write a key pair in PEM and return the paths of the private and the public key."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    folder.mkdir(exist_ok=True)
    key, public = folder / "key.pem", folder / "key.pub"
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, cipher))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, form))
    return key, public


@pytest.fixture
def folder(tmp_path):
    """A folder like an export, with a file in a folder within."""
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / "model.safetensors").write_bytes(bytes(1000))
    return tmp_path / "model"


@pytest.fixture
def keys(tmp_path):
    """The paths of a private and a public key."""
    return write_keys(tmp_path / "keys")


def test_a_signed_folder_is_accepted_under_any_name_and_may_be_signed_again(folder, keys):
    assert sign(folder, keys[0]) == folder / "model.sig"
    verify(folder, keys[1])
    moved = folder.rename(folder.with_name("elsewhere"))
    verify(moved, keys[1])
    (moved / "bom.json").write_text("{}")
    sign(moved, keys[0])
    verify(moved, keys[1])
    assert not list(moved.glob("*.partial"))


def test_any_software_of_the_format_accepts_the_signature(folder, keys):
    from model_signing import verifying

    signature = sign(folder, keys[0])
    verifying.Config().use_elliptic_key_verifier(public_key=keys[1]).verify(folder, signature)


def _change(folder):
    (folder / "deep" / "model.safetensors").write_bytes(bytes(999) + b"1")


def _add(folder):
    (folder / "modeling_evil.py").write_text("")


def _remove(folder):
    (folder / "config.json").unlink()


def _damage(folder):
    (folder / "model.sig").write_text("{}")


def _replace(folder):
    signature = folder / "model.sig"
    signature.write_text(
        signature.read_text().replace('"sig":"M', '"sig":"N').replace('"sig": "M', '"sig": "N')
    )


@pytest.mark.parametrize("alter", [_change, _add, _remove, _damage, _replace])
def test_a_folder_that_was_altered_is_refused(folder, keys, alter):
    sign(folder, keys[0])
    alter(folder)
    with pytest.raises(SignatureError, match="is not what was signed"):
        verify(folder, keys[1])


def test_another_key_is_refused(folder, keys, tmp_path):
    sign(folder, keys[0])
    _, other = write_keys(tmp_path / "other")
    with pytest.raises(SignatureError, match="is not what was signed with this key"):
        verify(folder, other)


def test_a_folder_without_a_signature_is_refused_with_the_command_that_signs(folder, keys):
    with pytest.raises(SignatureError, match="nexusmix sign"):
        verify(folder, keys[1])


def test_a_link_is_not_signed_because_its_target_may_change(folder, keys):
    (folder / "link.json").symlink_to(folder / "config.json")
    with pytest.raises(SignatureError, match="symlink"):
        sign(folder, keys[0])
    assert not list(folder.glob("model.sig*"))


def test_the_records_of_a_download_from_the_hub_do_not_break_the_signature(folder, keys):
    sign(folder, keys[0])
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "config.json.metadata").write_text("x")
    verify(folder, keys[1])


def test_an_encrypted_key_needs_its_password(folder, tmp_path):
    key, public = write_keys(tmp_path / "keys", password=b"secret")
    for wrong in (None, "other"):
        with pytest.raises(RecipeError, match="password"):
            sign(folder, key, password=wrong)
    sign(folder, key, password="secret")
    verify(folder, public)


def test_a_file_that_is_no_ec_key_is_refused(folder, keys, tmp_path):
    wrong = [
        write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048)),
        write_keys(tmp_path / "curve", ec.generate_private_key(ec.SECP256K1())),
        (folder / "config.json", folder / "config.json"),
        (keys[1], keys[0]),
    ]
    sign(folder, keys[0])
    for key, public in wrong:
        with pytest.raises(RecipeError, match="EC key"):
            sign(folder, key)
        with pytest.raises(RecipeError, match="EC key"):
            verify(folder, public)


def test_a_missing_folder_or_key_is_not_found(folder, keys, tmp_path):
    for wrong in (
        (tmp_path / "none", keys[0]),
        (folder, tmp_path / "none"),
        (folder / "config.json", keys[0]),
    ):
        with pytest.raises(NotFoundError):
            sign(*wrong)
        with pytest.raises(NotFoundError):
            verify(*wrong)


def test_without_the_package_the_error_names_the_extra(folder, keys, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"nexusmix\[sign\]"):
        sign(folder, keys[0])
    with pytest.raises(MissingExtraError, match=r"nexusmix\[sign\]"):
        verify(folder, keys[1])
