# What the scripts of this folder do with their arguments; sourced by them, before they change the folder:
#
#   source "$(dirname "${BASH_SOURCE[0]}")/usage.sh" "$@"    # --help prints the comment at the script's head
#   takes --fix -- "$@"                                      # any argument but --fix is an error

# wrong MESSAGE: the arguments are wrong.
wrong() {
    echo "scripts/${0##*/}: $*: see scripts/${0##*/} --help" >&2
    exit 2
}

# takes ALLOWED... -- ARGUMENT...
takes() {
    local allowed=()
    while [[ "$1" != -- ]]; do
        allowed+=("$1")
        shift
    done
    shift
    local argument
    for argument in "$@"; do
        [[ " ${allowed[*]} " == *" $argument "* ]] || wrong "there is no option or argument $argument"
    done
}

case "${1:-}" in
    -h | --help)
        sed -n '2,/^[^#]/ s/^#$// p; 2,/^[^#]/ s/^# //p' "$0"
        exit 0
        ;;
esac
