"""What README and pages of the documentation print for their reader to run."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from click.testing import CliRunner

from mpsim.cli import cli

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Page:
    """A page of Markdown, by its path in the repository."""

    name: str

    @cached_property
    def text(self):
        return (ROOT / self.name).read_text(encoding="utf-8")

    def blocks(self, language):
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)

    @property
    def commands(self):
        return [line for block in self.blocks("sh") for line in block.splitlines() if line.startswith("mpsim ")]

    @property
    def pictures(self):
        """The commands that made its pictures."""
        return re.findall(
            r"`(mpsim [^`\n]*gpt2\.(?:h200|csv)[^`\n]* -o [^`\n]*|mpsim simulate [^`\n]*--plot[^`\n]*)`", self.text
        )

    @property
    def links(self):
        return [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", self.text) if "://" not in link]


def with_torch(line):
    """Whether a command runs a model, or processes that load torch, or what those have written."""
    return line.startswith(("mpsim trace", "mpsim emulate")) or "links.json" in line


def run(line):
    """Run a command as it is printed, and return what it says."""
    done = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


HOW_TO = [Page(f"docs/how-to/{path.name}") for path in sorted((ROOT / "docs" / "how-to").glob("*.md"))]
README, TUTORIAL = Page("README.md"), Page("docs/tutorial.md")
