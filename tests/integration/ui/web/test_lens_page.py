"""The lens: a text read by mixes, with bits against the seed, masks, and a way from a bad passage to a search."""

from __future__ import annotations

from pages import html, open_page, toggle

from registry.home import Registry

TEXT = "def <main>: the plaintiff asked the court for a verdict."


def test_a_mix_reads_a_text_of_the_address_and_masks_an_expert(mixed: Registry) -> None:
    app = open_page("lens", mix="team@1", text=TEXT)
    assert not app.exception
    shown = html(app)
    assert shown.count('<i class="t') > 10 and "&lt;main" in shown
    assert "team@1 reads your text" in shown and "its seed" in shown and " alone." in shown
    assert app.query_params["text"] == TEXT
    toggle(app, "code@1").set_value(False).run()
    assert not app.exception
    assert 'title="law@1 · ' in html(app) and 'title="code@1' not in html(app)


def test_two_mixes_read_the_same_text(mixed: Registry) -> None:
    app = open_page("lens", mix="team@1", beside="team@2", text=TEXT)
    assert not app.exception
    assert html(app).count("nm-lens") == 2
    assert "beside" in app.query_params


def test_a_long_text_is_read_and_not_put_into_the_address(mixed: Registry) -> None:
    app = open_page("lens", mix="team@1")
    assert "Paste a text" in html(app)
    app.text_area[0].set_value(TEXT * 100).run()
    assert not app.exception
    assert "The first 4,000 tokens were read." in [each.value for each in app.caption]
    assert "text" not in app.query_params


def test_a_file_that_is_one_long_word_without_tokens_is_refused_in_place(mixed: Registry) -> None:
    app = open_page("lens", mix="team@1")
    app.text_area[0].set_value("\n").run()
    assert not app.exception and "Paste a text" in html(app)
