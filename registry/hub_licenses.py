"""Licence names of the Hugging Face Hub that differ from the SPDX names."""

from __future__ import annotations

from registry.community_licenses import REF_OF_TAG

# Hub names that each mean one SPDX licence.
SPDX_OF_TAG = {
    "c-uda": "C-UDA-1.0",
    "lgpl-lr": "LGPLLR",
    "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0",
    "pddl": "PDDL-1.0",
}
# Hub names that each mean several licences: the publisher must choose one.
VERSIONS_OF_TAG = {
    "agpl": ("AGPL-3.0-only", "AGPL-3.0-or-later"),
    "bsd": ("BSD-2-Clause", "BSD-3-Clause"),
    "cc": ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"),
    "gfdl": ("GFDL-1.3-only", "GFDL-1.3-or-later"),
    "gpl": ("GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
    "lgpl": ("LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later"),
    "openrail": (
        "LicenseRef-creativeml-openrail-m",
        "LicenseRef-bigscience-openrail-m",
        "LicenseRef-bigcode-openrail-m",
    ),
}
# Tags of licences that SPDX does not list: an SPDX name that looks similar is another licence.
UNLISTED_TAGS = frozenset(
    {
        *("apple-amlr", "apple-ascl", "bigcode-openrail-m", "bigscience-bloom-rail-1.0"),
        *("bigscience-openrail-m", "creativeml-openrail-m", "deepfloyd-if-license"),
        *("fair-noncommercial-research-license", "gemma", "grok2-community", "h-research", "intel-research"),
        *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "open-mdw", "openmdw-1.0"),
        *("openrail++", "other", "unknown"),
    }
)
# Vague names: two owners may use one for different licences.
VAGUE = frozenset(
    {
        *VERSIONS_OF_TAG,
        *("commercial", "community", "custom", "license", "licence", "model-license", "none", "noassertion"),
        *("other", "private", "proprietary", "research", "see-license", "tbd", "unknown", "unlicensed"),
    }
)
# SPDX names of licences with a hub tag; every other expression has the tag "other".
_TAGS = {
    name: name.lower()
    for name in (
        *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0", "ISC"),
        *("MPL-2.0", "NCSA", "PostgreSQL", "Unlicense", "WTFPL", "Zlib", "EPL-2.0", "EUPL-1.2", "OFL-1.1"),
        *("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0"),
        *("CC-BY-NC-SA-4.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0"),
    )
} | {spdx: tag for tag, spdx in SPDX_OF_TAG.items()}
_TAGS |= {
    f"{name}-{later}": name.lower()
    for name in ("GPL-2.0", "GPL-3.0", "AGPL-3.0", "LGPL-2.1", "LGPL-3.0")
    for later in ("only", "or-later")
}


def tag_of(license: str) -> str:
    """Return the hub's tag of an SPDX expression; "other" if it has none."""
    tag = license.removeprefix("LicenseRef-")
    return tag if license == REF_OF_TAG.get(tag) and tag in UNLISTED_TAGS else _TAGS.get(license, "other")
