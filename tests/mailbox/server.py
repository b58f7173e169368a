"""A mail server on loopback: TLS, AUTH, and the manners that the first word asks for.

Usage: server.py MODE FOLDER. MODE: accept, refuse (for good), busy (refuses for now), soon (takes the third try), picky (refuses for
good what tells of a failure), tls (from the first byte), login (knows no other way to log in), plain (no TLS), greet (wants EHLO desk.example.org), slow (never answers to EHLO), lost (is gone when it has the mail), inject and inject-line (what
somebody on the way puts behind the answer to STARTTLS, in clear: all answers that a mail needs, or one line; the server itself refuses for good).
All but tls and plain want STARTTLS.
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
    tries = 0

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        if mode == "greet" and hostname != "desk.example.org":
            return ["550 5.7.1 who are you"]
        if mode == "slow":
            await asyncio.sleep(3600)
        session.host_name = hostname
        return responses

    async def handle_DATA(self, server, session, envelope):
        log(f"data tls={session.ssl is not None} auth={session.authenticated} to={','.join(envelope.rcpt_tos)}")
        Keep.tries += 1
        if mode in ("refuse", "inject", "inject-line") or mode == "picky" and b"Result: FAILED" in envelope.content:
            return "554 5.7.1 not wanted here"
        if mode == "busy" or mode == "soon" and Keep.tries < 3:
            return "451 4.3.0 not now"
        if mode == "lost":
            server.transport.abort()
        Keep.count += 1
        with open(f"{folder}/{Keep.count}.eml", "wb") as out:
            out.write(envelope.content)
        return "250 taken"


def authenticator(server, session, envelope, mechanism, data):
    good = (data.login, data.password) == (b"backup", b"s3cret pass")
    log(f"auth tls={session.ssl is not None} good={good}")
    # Else the library would say nothing to one that is refused.
    return AuthResult(success=good, handled=False)


def context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/leaf.pem", f"{folder}/leaf.key")
    return context


INJECTED = {
    "inject": ["250-localhost", "250 AUTH PLAIN LOGIN", "235 ok", *["250 ok"] * 3, "354 go on", "250 taken", "221 bye"],
    "inject-line": ["250-AUTH PLAIN LOGIN"],
}


class Server(SMTP):
    async def push(self, status):
        if isinstance(status, str) and status.startswith("220 Ready"):
            status = "\r\n".join([status, *INJECTED.get(mode, [])])
        await super().push(status)


def session():
    starttls = mode not in ("plain", "tls")
    return Server(
        Keep(),
        hostname="localhost",
        tls_context=context() if starttls else None,
        require_starttls=starttls,
        authenticator=authenticator,
        auth_exclude_mechanism=["PLAIN"] if mode == "login" else [],
        auth_required=mode not in ("plain", "greet"),
        # The library knows of the TLS that it began itself.
        auth_require_tls=starttls,
    )


async def serve():
    server = await asyncio.get_running_loop().create_server(
        session, "127.0.0.1", 0, ssl=context() if mode == "tls" else None
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    # The end of our input is the end of the test.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(serve())
