"""A mail server on loopback: STARTTLS or none, AUTH, and the manners that the first word asks for.

Usage: server.py MODE FOLDER. MODE: accept, refuse, plain (no TLS), slow (takes the mail and never answers).
Prints its port, then stores each mail as FOLDER/N.eml, and what was said to it as lines of FOLDER/log.
"""
import asyncio
import os
import ssl
import sys

from aiosmtpd.smtp import AuthResult, SMTP

mode, folder = sys.argv[1:]


def log(line):
    with open(f"{folder}/log", "a") as out:
        out.write(line + "\n")


class Keep:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        log(f"data tls={session.ssl is not None} auth={session.authenticated} to={','.join(envelope.rcpt_tos)}")
        if mode == "refuse":
            return "554 5.7.1 not wanted here"
        if mode == "slow":
            await asyncio.sleep(3600)
        Keep.count += 1
        with open(f"{folder}/{Keep.count}.eml", "wb") as out:
            out.write(envelope.content)
        return "250 taken"


def authenticator(server, session, envelope, mechanism, data):
    good = (data.login, data.password) == (b"backup", b"s3cret pass")
    log(f"auth tls={session.ssl is not None} good={good}")
    return AuthResult(success=good)


def session():
    context = None
    if mode != "plain":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/leaf.pem", f"{folder}/leaf.key")
    return SMTP(
        Keep(),
        hostname="localhost",
        tls_context=context,
        require_starttls=context is not None,
        authenticator=authenticator,
        auth_required=context is not None,
        auth_require_tls=context is not None,
    )


async def serve():
    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The end of our input is the end of the test.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(serve())
