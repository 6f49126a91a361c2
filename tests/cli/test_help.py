"""Help as people read it: grouped, within 80 columns; words of other tools lead to ours."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from p3kit.cli import COMMANDS, OTHER_OPTIONS, OTHER_WORDS, SECTIONS, TAKE_A_SPEC, main
from p3kit.spec import load_spec
from tests.command import invoke


def p3kit(*arguments: str) -> tuple[int, str]:
    result = invoke(*arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_has_examples(command: str) -> None:
    code, text = p3kit(*([command] if command else []), "--help")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "p3kit " in re.split("Examples:|Start here:|Once for each shell:", text)[1]


def takes_runs(command: click.Command) -> bool:
    return any("RUN" in (parameter.metavar or "") for parameter in command.params)


def commands() -> dict[str, click.Command]:
    """Every command, also those inside a group."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in COMMANDS}
    inside = {f"{n} {m}": c for n, g in found.items() if isinstance(g, click.Group) for m, c in g.commands.items()}
    return {name: command for name, command in (found | inside).items() if command is not None}


def test_help_names_each_form_of_a_run() -> None:
    taking = [name for name, command in commands().items() if takes_runs(command)]
    assert {"compare", "rm", "show", "paper trade", "run", "ui"} <= set(taking)
    for name in taking:
        text = " ".join(p3kit(*name.split(), "--help")[1].split())
        assert "the name of an experiment" in text, name


def test_help_prints_every_default_in_one_form() -> None:
    for name, command in commands().items():
        context = click.Context(command, parent=click.Context(main, show_default=main.context_settings["show_default"]))
        for option in (one for one in command.params if isinstance(one, click.Option)):
            assert "default" not in (option.help or "").lower(), f"{name} {option.name}: use show_default"
            if not option.is_flag or option.secondary_opts:
                has_default = bool(option.show_default) or option.to_info_dict()["default"] is not None
                assert ("default" in option.get_help_extra(context)) == has_default, f"{name} {option.name}"


def test_help_loads_no_library_but_click() -> None:
    code = "import sys; from p3kit.cli import COMMANDS, main\n"
    code += "for name in COMMANDS:\n    main([name, '--help'], standalone_mode=False)\n"
    code += "heavy = {'aim', 'numpy', 'optuna', 'pandas', 'psutil', 'pydantic', 'rich', 'torch', 'tomli'}\n"
    code += "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_stands_once_in_a_group() -> None:
    _, text = p3kit("--help")
    listed = re.findall(r"^  ([a-z]+) +[A-Z]", text, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
    assert [title for title in SECTIONS if f"\n{title}:\n" in text][:4] == ["Start", "Train", "Judge", "Report"]


@pytest.mark.parametrize("word", OTHER_WORDS)
def test_a_word_of_another_tool_leads_to_the_command(word: str) -> None:
    code, text = p3kit(word)
    assert code == 2
    assert f'did you mean "{OTHER_WORDS[word]}"?' in text
    assert OTHER_WORDS[word] in COMMANDS
    assert word not in COMMANDS


@pytest.mark.parametrize("option", OTHER_OPTIONS)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_option_of_another_tool_leads_to_a_word_that_works(command: str, option: str) -> None:
    code, text = p3kit(command, "specs/smoke.toml", option, "3")
    assert code == 2
    assert f"here it is {OTHER_OPTIONS[option]}" in text
    assert command in TAKE_A_SPEC
    if found := re.fullmatch(r"--set '?([^']+)'?", OTHER_OPTIONS[option]):
        load_spec("specs/smoke.toml", [found[1]])


def test_other_unknown_options_are_answered_as_before() -> None:
    assert "No such option" in p3kit("run", "specs/smoke.toml", "--sede", "3")[1]
    assert "here it is" not in p3kit("runs", "--seed", "3")[1]
