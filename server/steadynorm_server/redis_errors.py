"""What the errors of Redis and redis-py mean, in one line each that says what to do. No line holds a password."""

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

_LONGEST = 200
_ECHO = ", with args beginning with"  # Redis repeats what it does not know, which may be AUTH with its password


class NewerSchemaError(RedisError):
    """Redis holds data that only a later server understands. The text names both versions, and what to do."""


def is_demoted(error: ResponseError) -> bool:
    """Whether the server that answers is no primary, or is none any longer."""
    return isinstance(error, ReadOnlyError | MasterDownError) or str(error).startswith(("READONLY", "UNBLOCKED"))


def is_forbidden(error: BaseException) -> bool:
    """Whether the access list of Redis' user lacks a command, a key or a channel, also within a script."""
    return isinstance(error, NoPermissionError) or any(word in str(error) for word in ("NOPERM", "ACL failure"))


def is_refused_for_now(error: ResponseError) -> bool:
    """Whether Redis is read-only, full, cut off or the like; any other reply of an error is a bug of ours."""
    if isinstance(error, OutOfMemoryError | ReadOnlyError | ClusterDownError):  # the last: MASTERDOWN too
        return True
    words = ("MISCONF", "OOM", "READONLY", "LOADING", "BUSY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN")
    return any(word in str(error) for word in words)


def first_line(error: BaseException) -> str:
    """The first line of its text, and its class where it has none."""
    text = (str(error).splitlines() or [""])[0].partition(_ECHO)[0].strip()
    return text[:_LONGEST] or type(error).__name__


def misconfigured(error: BaseException) -> str | None:
    """What to do about an error that waiting does not end; None for any other."""
    if isinstance(error, NewerSchemaError):
        return str(error)
    text = first_line(error)
    if isinstance(error, MovedError):
        return "Redis runs as a cluster, which REDIS_URL does not say: set it to redis+cluster://HOST:PORT."
    if is_forbidden(error):
        return (
            f"Redis does not permit this server's user what it needs: {text}. Extend its access list: "
            "docs/deploying.md has the line."
        )
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        return f"Redis refuses the user or the password of REDIS_URL: {text.rstrip('.')}."
    if "DB index" in text or "SELECT is not allowed" in text:
        return f"Redis does not have the database that REDIS_URL names at its end: {text}. Leave it out for number 0."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.rpartition("CERTIFICATE_VERIFY_FAILED]")[2].partition(" (_ssl")[0].strip()
        return (
            f"the certificate of Redis is not trusted: {reason}. Name its CA: REDIS_URL=rediss://…?ssl_ca_certs=FILE."
        )
    if "WRONG_VERSION_NUMBER" in text or "UNEXPECTED_EOF" in text:
        return "Redis does not speak TLS at the address of REDIS_URL: use redis:// there, or its TLS port."
    return None


def explain(error: BaseException) -> str:
    """One line: what is wrong with Redis, and what to do where waiting is not enough."""
    if (found := misconfigured(error)) is not None:
        return found
    if isinstance(error, ResponseError):
        return f"Redis refuses: {first_line(error).rstrip('.')}."
    name, text = type(error).__name__, first_line(error).rstrip(".")
    return f"Redis does not answer ({name})." if text == name else f"Redis does not answer ({name}): {text}."


def is_from_redis(error: BaseException) -> bool:
    """Whether it is about Redis or the way to it, and no bug of ours."""
    return isinstance(error, RedisError | OSError)
