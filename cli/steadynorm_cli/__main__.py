"""`python -m steadynorm_cli`: the command line, for processes that start one another without a PATH."""

from steadynorm_cli.main import main

if __name__ == "__main__":
    main()
