"""`python -m steadynorm_dashboard`: starts the dashboard without the command line's package."""

from steadynorm_dashboard.launch import main

if __name__ == "__main__":
    main()
