"""Sphinx settings of the documentation site, which `./docs.sh` builds."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from nets.start_tensorflow import start_tensorflow  # noqa: E402

start_tensorflow()  # autodoc imports modules that need it; this silences its start-up messages

project = "margin-centre-face"

# The pages stay where they are in the repository, so that their links also work on code-hosting sites.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "benchmarks/*.md"]
exclude_patterns = [".*", "dataset", "demo", "output", "site", "tests"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_extensions.docstrings",
    "site_extensions.mathml",
    "site_extensions.program_flags",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style")]
# The build uses no network, so it cannot link the types of other packages to their documentation.
nitpick_ignore_regex = [("py:.*", r"(tensorflow|tf|keras|numpy|np|pathlib|collections|Path|Any)\b.*")]

html_theme = "furo"
html_title = "margin-centre-face"
html_static_path = ["site_extensions/static"]
html_css_files = ["site.css"]
html_extra_path = ["site_extensions/start"]
html_copy_source = False
html_show_copyright = False
