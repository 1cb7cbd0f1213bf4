"""What agent, server and dashboard agree on. Depends on the standard library, msgspec and urllib3 only.

`settings` what an operator may change and within which limits; `records` what travels on the wire; `views` what the
server tells people; `codec` bytes and back; `rule` the stabilizer in plain floats; `client` HTTP for people;
`home` where a user's own server keeps its address and token.
"""

__version__ = "0.1.0"
