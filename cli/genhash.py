"""`holdfast genhash`: the digest of a page for `digest` in HTTP_GET and SSL_GET, with the options of genhash(1)."""

from __future__ import annotations

import asyncio
import sys

import click

from holdfast.actors.checkers.config import Connection
from holdfast.actors.checkers.genhash import Page, fetch
from holdfast.cli.common import Exit, fail, json_option, print_json


@click.command(name="genhash")
@click.option("-s", "--server", required=True, metavar="ADDRESS", help="Address of the server.")
@click.option("-p", "--port", required=True, type=click.IntRange(1, 65535), help="Its port.")
@click.option("-u", "--url", required=True, metavar="PATH", help="The page, as in `path`.")
@click.option("-S", "--use-ssl", is_flag=True, help="Over TLS, as SSL_GET.")
@click.option("-I", "--use-sni", is_flag=True, help="Send the virtual host as TLS server name (SNI).")
@click.option("-V", "--use-virtualhost", metavar="NAME", help="Host header.")
@click.option(
    "-P",
    "--protocol",
    type=click.Choice(["1.0", "1.0c", "1.1"], case_sensitive=False),
    default="1.0",
    show_default=True,
    help="HTTP version; 1.0c is 1.0 with `Connection: close`.",
)
@click.option("-m", "--fwmark", type=click.IntRange(0, 2**32 - 1), default=0, help="Mark our packets (SO_MARK; root).")
@click.option("-t", "--timeout", type=click.FloatRange(0.001), default=5.0, show_default=True, help="Seconds a step.")
@click.option("-v", "--verbose", is_flag=True, help="Show the request and what came.")
@json_option
def genhash(
    server: str,
    port: int,
    url: str,
    use_ssl: bool,
    use_sni: bool,
    use_virtualhost: str | None,
    protocol: str,
    fwmark: int,
    timeout: float,
    verbose: bool,
    as_json: bool,
) -> None:
    """Print the MD5 digest of a page, as a check would compute it (whatever the status code)."""
    connection = Connection(address=server, port=port, fwmark=fwmark, timeout_us=round(timeout * 1e6))
    page = asyncio.run(
        fetch(
            connection,
            url,
            tls=use_ssl,
            virtualhost=use_virtualhost,
            sni=use_sni,
            protocol=protocol.upper(),
        )
    )
    if as_json:
        print_json({"digest": page.digest, "problem": page.problem, "bytes": len(page.body), "took_us": page.took_us})
        sys.exit(Exit.WELL if page.digest is not None else Exit.FAILED)
    if verbose:
        _show(page)
    if page.digest is None:
        fail(page.problem if page.received else f"no data received from remote webserver: {page.problem}")
    click.echo(page.digest)


def _show(page: Page) -> None:
    for title, data in (("request", page.request), ("header", page.header), ("body", page.body)):
        click.echo(f"--- {title}, {len(data)} bytes")
        click.echo(data.decode("utf-8", "backslashreplace").rstrip("\r\n"))
    click.echo(f"--- MD5 of the body, after {page.took_us} us")
