main() {
    need_root
    if [ ! -d "$state" ]; then
        say "nothing was set up by a script here"
        exit 0
    fi
    take_back
}

main </dev/null
