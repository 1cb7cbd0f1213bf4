"""`streamlit`, whose requests keep the address of the connection, whatever X-Forwarded-For says.

uvicorn would replace it for a proxy on this machine, and `components.proxy_identity` could not tell who sent a name.
"""

import os

from streamlit.web.cli import main

if __name__ == "__main__":
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    main(prog_name="streamlit")
