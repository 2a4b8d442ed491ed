"""``sealift completion SHELL``."""

from flows.cli.output import Output
from flows.cli.summaries import Script
from sealift.errors import UsageError

_BASH = """\
# sealift completion bash: put into ~/.bashrc:  source <(sealift completion bash)
_sealift() {
    local IFS=$'\\n' kind
    local -a lines
    mapfile -t lines < <(
        "${COMP_WORDS[0]}" __complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    kind=${lines[0]}
    COMPREPLY=("${lines[@]:1}")
    case $kind in
        names) compopt -o filenames 2>/dev/null ;;
        files) compopt -o filenames 2>/dev/null
               mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}") ;;
        folders) compopt -o filenames 2>/dev/null
                 mapfile -t COMPREPLY < <(compgen -d -- "${COMP_WORDS[COMP_CWORD]}") ;;
    esac
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _sealift sealift
"""
_ZSH = """\
#compdef sealift
# sealift completion zsh: put into ~/.zshrc, after compinit:  source <(sealift completion zsh)
_sealift() {
    local -a lines
    lines=("${(@f)$("${words[1]}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    local kind=${lines[1]}
    shift lines
    case $kind in
        names) compadd -f -- "${(@)${(@)lines%%:*}}" ;;
        files) _files ;;
        folders) _files -/ ;;
        *) (( $#lines )) && _describe -t values value lines ;;
    esac
}
if [[ ${funcstack[1]} == _sealift ]]; then _sealift "$@"; else compdef _sealift sealift; fi
"""
_FISH = """\
# sealift completion fish:  sealift completion fish > ~/.config/fish/completions/sealift.fish
function __sealift
    set -l typed (commandline -opc)
    set -l program $typed[1]
    set -e typed[1]
    set -l current (commandline -ct)
    set -l lines ($program __complete fish $typed "$current" 2>/dev/null)
    set -l kind $lines[1]
    set -e lines[1]
    switch "$kind"
        case files
            __fish_complete_path "$current"
        case folders
            __fish_complete_directories "$current"
        case '*'
            printf '%s\\n' $lines
    end
end
complete -c sealift -f -a '(__sealift)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(output: Output, shell: str) -> None:
    """Print the script that a shell reads.

    Raises:
        UsageError: there is none for this shell.
    """
    if shell not in SCRIPTS:
        names = " | ".join(SCRIPTS)
        raise UsageError(f"no completion for {shell}", next_step=f"sealift completion {names}")
    output.summary(Script(text=SCRIPTS[shell].rstrip("\n"), shell=shell))
