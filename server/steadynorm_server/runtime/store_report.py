"""What is wrong with Redis when the server starts: a line each. It starts all the same, since most can be mended."""

import asyncio
import logging

from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.redis.address import StoreAddress
from steadynorm_server.redis_errors import NewerSchemaError, explain, is_from_redis
from steadynorm_server.retention.policy import Limits
from steadynorm_server.retention.sweeper import measure
from steadynorm_server.runs.repository import RunRepository

_log = logging.getLogger(__name__)


def report(config: ServerConfig, redis_url: str) -> None:
    """Log what is wrong with the Redis at this address. Waits for it no longer than a request does.

    Raises StartError where Redis holds data that only a later server understands.
    """
    shown = StoreAddress.parse(redis_url).shown
    for line in asyncio.run(_findings(redis_url, Limits.from_config(config))):
        _log.warning("%s: %s", shown, line)


async def _findings(url: str, limits: Limits) -> list[str]:
    repository = RunRepository(url)
    try:
        await repository.check()
        capacity = await measure(repository, await repository.live(), limits)
    except NewerSchemaError as error:
        raise StartError(str(error)) from None
    except Exception as error:
        if not is_from_redis(error):
            raise
        return [f"{explain(error)} It is tried again; until then /readyz and all requests answer 503."]
    finally:
        await repository.redis.close()
    if capacity is None:
        return ["its memory is not watched: the access list of this server's user lacks +info."]
    return capacity.findings()
