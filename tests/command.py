"""The `sentimoe` command in this process, with its exit code and what it writes."""

import io
import sys
from dataclasses import dataclass
from unittest import mock

import sentimoe_cli


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        assert self.exit_code and self.stderr.startswith("error: ") and self.stderr.count("\n") == 1, self.stderr
        return self.stderr.removeprefix("error: ")


def invoke(*arguments, text="", encoding="utf-8") -> Result:
    """Run a command as `main` does. text: standard input; encoding: of standard output."""
    given = text if isinstance(text, bytes) else text.encode()
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=each, newline="\n") for each in (encoding, "utf-8"))
    with mock.patch.multiple(sys, stdin=io.TextIOWrapper(io.BytesIO(given)), stdout=out, stderr=err):
        code = sentimoe_cli.run([str(each) for each in arguments])
        out.flush()
        err.flush()
    return Result(code, out.buffer.getvalue().decode(encoding), err.buffer.getvalue().decode())
