"""How the command ends: exit codes, one line for what went wrong, and nothing heavy imported to say so."""

import errno
import io
import json
import os
import re
import sys
import textwrap
import time
from importlib.metadata import version
from subprocess import PIPE, Popen, run

import pytest
from command import invoke

import sentimoe_cli
import sentimoe_cli.stream
from sentimoe_cli.train import OF_METHOD, PANELS, PLAIN


def test_help_shows_the_defaults():
    """Kind: what stands in square brackets is read as markup, and vanishes."""
    shown = " ".join(invoke("train", "--help").stdout.split())
    assert "[all-MiniLM-L6-v2]" in shown and "[label]" in shown and "[4; 7 for moe-split]" in shown
    assert "predict" in invoke().stdout


def test_help_at_80_columns_cuts_no_name(monkeypatch):
    """Kind: `--distillation-w...`, as typer's panels show it."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = invoke("train", "--help").stdout
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    titles = [line.removesuffix(":") for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Options", *PANELS]
    assert re.search(r"^Arguments:\n  \[?TEXTS", invoke("predict", "--help").stdout, re.MULTILINE | re.IGNORECASE)
    for name, field in (PLAIN | OF_METHOD).items():
        flag = field.json_schema_extra["flag"] or f"--{name.replace('_', '-')}"
        assert re.search(rf"^  {flag} ", shown, re.MULTILINE), flag
        assert field.description and " ".join(field.description.split())[:20] in " ".join(shown.split())


MISTAKES = [
    (["prdict"], "No such command 'prdict'"),
    (["train", "--output", "x", "--epochs", "[/red]"], "Invalid value for '--epochs'"),
    (["train", "--output", "x", "--epochs", "0"], "epochs=0 is not allowed; it must be a whole number, 1 or more"),
    (["train", "--output", "x", "--method", "magic"], "choose one of full"),
    (["train", "--output", "x", "--method", "zero-shot"], "trains nothing"),
    (
        ["train", "--output", "x", "--method", "moe-gated", "--layers", "x"],
        "layers_to_transform='x' is not allowed; it must",
    ),
    (
        ["train", "--output", "x", "--layers", "-1"],
        "methods with these: moe-plain, moe-gated, moe-split, moe-lora",
    ),
    (["train", "--output", "x", "--method", "moe-gated", "--num-experts-per-tok", "5"], "between 1 and num_experts=4"),
    (["train", "--output", "x", "--method", "full", "--num-experts", "4"], "has no settings ['num_experts']"),
    (["train", "--output", "x", "--config", "{tmp}/none.yaml"], "does not exist"),
    (["train", "--output", "x", "--config", "{tmp}/wrong.yaml"], "epochs='no' is not allowed"),
    (["predict", "--model", "m", "-1 star"], "a text that begins with a dash goes behind --"),
    (["predict", "--modle", "m"], "No such option: --modle (Possible options"),
    (["predict", "--method", "zero-shot", "a text"], "--model names it"),
    (["predict", "runs/nowhere", "a text"], "'runs/nowhere' is no folder of a model"),
    (["predict", "--model", "m", "{tmp}"], "is a folder, and the model is named already"),
    (["predict", "--model", "m", "a", "--input", "x.csv"], "not both"),
    (["predict", "--model", "m", "a", "--text-column", "review"], "leave it out"),
    (["predict", "--model", "m", "a", "--labels", "a,b"], "add --method zero-shot"),
    (["predict", "--model", "m", "a", "--output", "{tmp}/x.txt"], "must end in .csv, .jsonl, .parquet"),
    (["predict", "--model", "m", "a", "--output", "{tmp}/folder.csv"], "is a folder; give the name of a file"),
    (["predict", "--model", "m", "a", "--output", "{tmp}/no/x.csv"], "there is no folder"),
    (["predict", "--model", "m", "a", "--output", "{tmp}/file.csv"], "exists; choose another file or add --overwrite"),
    (["predict", "--model", "m", "a", "--output", "{tmp}/pipe.csv", "--overwrite"], "no regular file"),
    (["predict", "--model", "m", "a", "--output", "{tmp}/locked/x.csv"], "you may not write to"),
    (["train", "--output", "{tmp}/file.csv"], "is a file; give another folder"),
    (["train", "--output", "{tmp}/file.csv/x"], "is a file; give another folder"),
    (["train", "--output", "{tmp}/locked/new/x"], "you may not write to"),
    (["export", "m", "{tmp}/file.csv"], "is a file; give another folder"),
    (["export", "m", "{tmp}"], "is not empty"),
    (["explain", "m", "--output", "{tmp}/file.csv"], "is a file; give another folder"),
    (["explain", "m", "--output", "{tmp}/new", "--record", "{tmp}/folder.csv"], "is a folder; give the name of a file"),
    (["bench", "a", "b", "--output", "{tmp}/file.csv"], "must end in .json"),
    (["bench", "a", "b", "--output", "{tmp}/no/x.json"], "there is no folder"),
    (["bench", "{tmp}", "{tmp}", "--data", "nowhere.csv"], "no such file"),
    (["bench", "a"], "give two models"),
    (["bench", "{tmp}", "nowhere"], "nowhere is not a trained model"),
    (["predict", "--model", "nowhere", "a text"], "nowhere is not a trained model"),
    (["predict", "--model", "m", "a text", "--precision", "fp16"], "'fp16' is not one of 'auto', 'bfloat16'"),
    (["evaluate", "nowhere"], "nowhere is not a trained model"),
    (["info", "{tmp}/nowhere"], "nowhere is not a trained model"),
    (["export", "nowhere", "{tmp}/new"], "nowhere is not a trained model"),
    (["explain", "{tmp}", "--dense", "nowhere", "--output", "{tmp}/new"], "nowhere is not a trained model"),
    (["explore", "{tmp}", "nowhere"], "nowhere is not a trained model"),
]


def test_mistakes_of_the_command_line_need_no_torch(tmp_path):
    """Kinds: output problems that show after hours; an error of two lines; seconds of imports to say no."""
    for name in ("folder.csv", "locked"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.csv").write_text("mine")
    (tmp_path / "wrong.yaml").write_text("epochs: 'no'\n")
    program = """
        import json, os, sys, sentimoe_cli
        access = os.access  # root may write everywhere
        os.access = lambda path, mode: "locked" not in str(path) and access(path, mode)
        os.mkfifo(sys.argv[1] + "/pipe.csv")
        codes = [sentimoe_cli.run([part.format(tmp=sys.argv[1]) for part in told]) for told in json.loads(sys.argv[2])]
        print(json.dumps([codes, sorted({"torch", "transformers", "sentimoe", "pandas"} & set(sys.modules))]))
    """
    given = [str(tmp_path), json.dumps([told for told, _ in MISTAKES])]
    done = run([sys.executable, "-c", textwrap.dedent(program), *given], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[2] * len(MISTAKES), []]
    for line, (_, reason) in zip(done.stderr.splitlines(), MISTAKES, strict=True):
        assert line.startswith("error: ") and reason in line
    assert (tmp_path / "file.csv").read_text() == "mine"


def command(program: str) -> list[str]:
    """A process whose `sentimoe do` runs a program."""
    body = textwrap.indent(textwrap.dedent(program), "    ")
    start = "import os, sys, signal, time, sentimoe_cli\n@sentimoe_cli.app.command('do')\ndef do():\n"
    return [sys.executable, "-c", f"{start}{body}\nsys.argv[1:] = ['do']\nsentimoe_cli.main()"]


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ROWS = "for row in range(100_000): print(row)"


def test_ctrl_c_is_130():
    as_in_a_terminal = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background ignores it
    program = f"{as_in_a_terminal}; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
    done = run(command(program), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_reader_that_stops_early_is_no_error():
    """Kind: a traceback after `| head`."""
    with Popen(command(ROWS), stdout=PIPE, stderr=PIPE, text=True, env=BUFFERED) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_full_disk_behind_standard_output_is_told():
    """Kind: the answer goes nowhere, and the exit code is 0 or Python's 120."""
    for program in (ROWS, "print(1)"):
        with open("/dev/full", "w") as full:
            done = run(command(program), stdout=full, stderr=PIPE, text=True, env=BUFFERED)
        assert done.returncode == 75 and done.stderr.startswith("error: standard input or output: No space left")
        assert done.stderr.count("\n") == 1


def test_a_bug_is_1_with_a_traceback():
    done = run(command("1 / 0"), capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


@pytest.mark.parametrize(("stream", "reason"), [("stdin", "standard input"), ("stdout", "standard output")])
def test_closed_streams(monkeypatch, capsys, stream, reason):
    """Kind: AttributeError for a closed standard input; an answer that goes nowhere, with exit code 0."""
    for told in (["predict", "--model", "m"], *([["evaluate", "m"], ["info", "m"]] if stream == "stdout" else [])):
        monkeypatch.setattr(sys, stream, None)
        assert sentimoe_cli.run(told) == 2
        monkeypatch.undo()
        assert f"error: {reason} is closed" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENAMETOOLONG, errno.EISDIR])
def test_what_the_system_refuses_is_one_line(monkeypatch, code):
    """Kind: the traceback of a PermissionError, whatever the command was doing."""

    def refuse(*_):
        raise OSError(code, "no", "some [x]\nfile")

    monkeypatch.setattr(sentimoe_cli.places, "check_standard_output", refuse)
    monkeypatch.setattr(sentimoe_cli.info, "check_standard_output", refuse)
    result = invoke("info", "m")
    assert "some [x] file: " in result.error and result.exit_code == (75 if code == errno.ENOSPC else 2)


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    """Kind: minutes without a word in a log."""
    monkeypatch.setattr(sentimoe_cli.stream, "SECONDS", 0.05)
    with sentimoe_cli.stream.counted(2000, "predicting [x]") as update:
        update(1500, "predicting [x]")
        time.sleep(0.3)
        update(500, "projecting")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert "predicting [x]: 1,500 of 2,000 rows, " in lines[0] and re.search(r" rows/s, \d+ s left$", lines[0])
    assert lines[-1].startswith("projecting: ") and lines[-1].endswith(" s") and 4 <= len(lines) <= 12
    with sentimoe_cli.stream.counted(1, "short"):
        pass
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_what_is_loaded_and_a_log_does_not(monkeypatch, capsys):
    """Kind: seconds of silence, after which one asks whether the command hangs."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with sentimoe_cli.stream.loading("a [model]"):
            time.sleep(0.2)
    assert "loading a [model]" in terminal.getvalue()
    with sentimoe_cli.stream.loading("a [model]"):
        pass
    assert capsys.readouterr().err == ""


def test_the_version_is_printed_without_torch(capsys):
    assert sentimoe_cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"sentimoe {version('sentimoe')}\n"


def test_the_package_runs_as_a_module():
    done = run([sys.executable, "-m", "sentimoe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"sentimoe {version('sentimoe')}\n"
