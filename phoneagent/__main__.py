"""The entry point of the command line. Ctrl-C ends it quietly, even while the commands are imported."""


def main() -> None:
    try:
        from phoneagent.cli import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
