# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The site: docs/*.md as they stand, and what antsibull-docs makes of roles and plugins; tools/docs builds it."""

from __future__ import annotations

import re
import typing as t

from docutils import nodes
from sphinx.application import Sphinx

REPOSITORY = "https://github.com/nixfleet/builders/blob/main/"
ANSIBLE = "https://docs.ansible.com/projects/ansible/latest/"
#: Labels of Ansible's documentation that antsibull-docs refers to.
LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}

project = "nixfleet.builders"
author = "nixfleet.builders contributors"
copyright = "nixfleet.builders contributors"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
# The page that also greets who reads the sources; the site's menu is made of its links.
root_doc = "README"
exclude_patterns = ["examples", "site"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
default_role = "any"
highlight_language = "none"
pygments_style = "ansible"
pygments_dark_style = "monokai"
html_theme = "furo"
html_title = "nixfleet.builders"
html_show_sphinx = False
html_copy_source = False
html_use_index = False
# Neither fonts nor badges from elsewhere.
html_theme_options = {"footer_icons": []}


def _links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to files that are no pages lead to the repository; the first page gets the menu."""
    if docname.startswith("collection/"):
        # The reference knows other collections by labels; this site has no copy of them.
        return
    text = source[0]
    text = re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({REPOSITORY}\1)", text)
    text = re.sub(r"\]\((examples/[^)\s]+)\)", rf"]({REPOSITORY}docs/\1)", text)
    if docname == app.config.root_doc:
        for caption, section in re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE):
            pages = re.findall(r"\]\(([a-z0-9-]+)\.md\)", section)
            if pages:
                text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        text += "\n```{toctree}\n:hidden:\n:caption: Reference\n\nRoles, modules, plugins <collection/index>\n```\n"
    source[0] = text


def _ansible(app: Sphinx, env: t.Any, node: t.Any, contnode: nodes.Element) -> nodes.Node | None:
    """What Ansible's documentation has, as a link that is made without asking it."""
    target = str(node.get("reftarget", ""))
    builtin = re.fullmatch(r"ansible_collections\.ansible\.builtin\.([a-z_]+)_([a-z]+)", target)
    page = f"collections/ansible/builtin/{'_'.join(builtin.groups())}.html" if builtin else LABELS.get(target)
    if not page:
        return None
    link = nodes.reference("", "", internal=False, refuri=ANSIBLE + page)
    link.append(contnode)
    return link


def setup(app: Sphinx) -> None:
    app.connect("source-read", _links)
    app.connect("missing-reference", _ansible)
