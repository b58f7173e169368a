"""An S3 server for tests: moto on a loopback port, which checks signatures and fails on request.

Usage: server.py BUCKET KEY SECRET [CERTIFICATE PRIVATE_KEY]. Prints its port; ends when its standard input does.

GET /_fault?method=PUT&name=data/&how=503&count=3 makes the next three uploads of a pack fail:
  503   the answer is 503 SlowDown
  cut   the connection is closed in the middle of the request
  lost  the request is carried out, and the connection is closed without an answer
  hang  there is no answer until the server ends
GET /_seen returns how many requests there were.
"""
import hashlib
import hmac
import logging
import os
import socket
import sys
import threading
from urllib.parse import parse_qsl, quote, unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

bucket, key, secret = sys.argv[1:4]
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
moto = DomainDispatcherApplication(create_backend_app)
s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")
lock = threading.Lock()
fault = {"count": 0}
seen = 0


def signature(environ, authorization):
    """What the signature of a request must be: AWS Signature Version 4."""
    fields = dict(part.strip().split("=", 1) for part in authorization.split(" ", 1)[1].split(","))
    scope = fields["Credential"].split("/")
    path, _, query = environ["RAW_URI"].partition("?")
    pairs = sorted((quote(k, "-_.~"), quote(v, "-_.~")) for k, v in parse_qsl(query, True))
    header = lambda name: environ.get("HTTP_" + name.upper().replace("-", "_")) or environ.get(name.upper().replace("-", "_"), "")
    names = fields["SignedHeaders"].split(";")
    request = [environ["REQUEST_METHOD"], quote(unquote(path), "/-_.~"), "&".join(f"{k}={v}" for k, v in pairs)]
    request += [f"{name}:{header(name).strip()}" for name in names]
    request += ["", ";".join(names), header("x-amz-content-sha256")]
    digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", header("x-amz-date"), "/".join(scope[1:]), digest])
    by = b"AWS4" + secret.encode()
    for part in scope[1:]:
        by = hmac.new(by, part.encode(), hashlib.sha256).digest()
    return scope[0], fields["Signature"], hmac.new(by, text.encode(), hashlib.sha256).hexdigest()


def refuse(start, status, code, message):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def application(environ, start):
    global seen
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), True))
    if environ["PATH_INFO"] == "/_fault":
        with lock:
            fault.update(query, count=int(query["count"]))
        start("200 OK", [("Content-Length", "0")])
        return [b""]
    if environ["PATH_INFO"] == "/_seen":
        start("200 OK", [("Content-Length", str(len(str(seen))))])
        return [str(seen).encode()]
    with lock:
        seen += 1
        fails = fault["count"] > 0 and fault["method"] == environ["REQUEST_METHOD"] and fault["name"] in environ["PATH_INFO"]
        fault["count"] -= fails
    how = fault["how"] if fails else ""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if how == "503":
        environ["wsgi.input"].read(length)
        return refuse(start, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
    if how == "hang":
        threading.Event().wait()
    if how == "cut":
        environ["wsgi.input"].read(length // 2)
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError
    id, given, expected = signature(environ, environ.get("HTTP_AUTHORIZATION", " Credential=,SignedHeaders=,Signature="))
    if id != key:
        environ["wsgi.input"].read(length)
        return refuse(start, "403 Forbidden", "InvalidAccessKeyId", "The access key does not exist in our records.")
    if given != expected:
        environ["wsgi.input"].read(length)
        return refuse(start, "403 Forbidden", "SignatureDoesNotMatch", "The signature does not match the one you provided.")
    if how == "lost":
        list(moto(environ, lambda *_: None))
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError
    return moto(environ, start)


def end_with_input():
    sys.stdin.read()
    os._exit(0)


server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=tuple(sys.argv[4:6]) or None)
threading.Thread(target=end_with_input, daemon=True).start()
print(server.port, flush=True)
server.serve_forever()
