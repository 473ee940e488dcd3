# SPDX-License-Identifier: Apache-2.0
"""`completion SHELL`: what a shell needs to complete commands, options and containers' ids, made of the commands' tables."""

from __future__ import annotations

from ctnr.cli.args import CHOICE, FLAG, LATER, Command
from ctnr.cli.output import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler

SHELLS = ("bash", "fish", "zsh")
_BASH = """\
# completion of @ for bash: source it, or put it into /usr/share/bash-completion/completions/@
_@() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= words= ids= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            GLOBAL_VALUES) ((i++)) ;;
            -*) ;;
            *) verb=${COMP_WORDS[i]}; break ;;
        esac
    done
    case $verb:$prev in
CHOICES
        *) case $verb in
VERBS
        esac ;;
    esac
    # without a dash: containers, else files
    if [[ $cur != -* && $words == -* ]]; then
        words=
        [[ $ids ]] && words=$(@ list --quiet 2>/dev/null)
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _@ @
"""


def completion(g: Globals, parsed: Parsed) -> int:
    from ctnr.cli.args import UsageError

    shell = parsed.args[0]
    if shell not in SHELLS:
        raise UsageError(f"SHELL is {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, not {shell!r}")
    from ctnr.cli.boot import GLOBAL_OPTIONS, all_commands

    commands = all_commands(g)
    if shell == "fish":
        out(_fish(g.program, commands, GLOBAL_OPTIONS))
        return 0
    text = _bash(g.program, commands, GLOBAL_OPTIONS)
    if shell == "zsh":
        text = f"#compdef {g.program}\nautoload -U +X bashcompinit && bashcompinit\n{text}"
    out(text)
    return 0


def _shown(options: Sequence[Option]) -> list[Option]:
    return [o for o in options if o[4] and o[0] != LATER]


def _names(option: Option) -> list[str]:
    return [f"--{option[1]}"] + ([f"-{option[2]}"] if option[2] else [])


def _words(options: Sequence[Option]) -> str:
    return " ".join(name for option in _shown(options) for name in _names(option)) + " --help"


def _bash(program: str, commands: Sequence[Command], top: Sequence[Option]) -> str:
    values = "|".join(name for option in _shown(top) if option[0] != FLAG for name in _names(option))
    choices, verbs = [], []
    for verb, options in (("", top), *((command.name, command.options) for command in commands)):
        for option in _shown(options):
            if option[0] == CHOICE:
                heads = "|".join(f"{verb}:{name}" for name in _names(option))
                choices.append(f'        {heads}) words="{option[3].replace("|", " ")}" ;;')
    names = " ".join(command.name for command in commands)
    verbs.append(f'            "") words="{names} {_words(top)}" ;;')
    for command in commands:
        ids = "ids=1; " if command.positionals.startswith("CONTAINER") and command.name not in _MAKERS else ""
        verbs.append(f'            {command.name}) {ids}words="{_words(command.options)}" ;;')
    text = (
        _BASH.replace("GLOBAL_VALUES", values).replace("CHOICES", "\n".join(choices)).replace("VERBS", "\n".join(verbs))
    )
    return text.replace("@", program)


# their CONTAINER is a new one
_MAKERS = ("create", "run", "restore")


def _fish(program: str, commands: Sequence[Command], top: Sequence[Option]) -> str:
    lines = [f"# completion of {program} for fish: put it into ~/.config/fish/completions/{program}.fish"]
    lines += [_fish_option(program, "__fish_use_subcommand", option) for option in _shown(top)]
    for command in commands:
        lines.append(
            f"complete -c {program} -f -n __fish_use_subcommand -a {command.name} -d {_quoted(command.summary)}"
        )
        within = f"__fish_seen_subcommand_from {command.name}"
        lines += [_fish_option(program, within, option) for option in _shown(command.options)]
        if command.positionals.startswith("CONTAINER") and command.name not in _MAKERS:
            lines.append(f"complete -c {program} -f -n {_quoted(within)} -a '({program} list --quiet 2>/dev/null)'")
    return "\n".join(lines) + "\n"


def _fish_option(program: str, condition: str, option: Option) -> str:
    kind, name, short, metavar, text = option
    line = f"complete -c {program} -n {_quoted(condition)} -l {name}" + (f" -s {short}" if short else "")
    if kind == CHOICE:
        line += f" -x -a {_quoted(metavar.replace('|', ' '))}"
    elif kind != FLAG:
        line += " -r"
    return f"{line} -d {_quoted(text)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "completion": (
        Command("completion", "SHELL", "print what bash, fish or zsh needs to complete commands, options and ids"),
        completion,
    )
}
