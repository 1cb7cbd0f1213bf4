"""`python -m steadynorm_server`: the command line, for processes that start one another without a PATH."""

from steadynorm_server.cli import main

if __name__ == "__main__":
    main()
