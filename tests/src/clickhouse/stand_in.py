"""ClickHouse's HTTP interface over chdb, which is the server's own code without one: real parts on a real disk.
usage: stand_in.py PATH CONFIG PORT USER PASSWORD, or as a server: stand_in.py --config-file=CONFIG"""

import os
import re
import signal
import sys
import threading
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if sys.argv[1].startswith("--config-file="):
    CONFIG, USER = sys.argv[1].split("=", 1)[1], "default"
    settings = ElementTree.parse(CONFIG)
    PATH, PORT = settings.findtext("path"), settings.findtext("http_port")
    users = settings.find("users_config")
    PASSWORD = ElementTree.parse(users.text).findtext("users/default/password")
    # Users are ours to know: within this process there is one, without a password.
    settings.getroot().remove(users)
    os.chdir(settings.findtext("tmp_path"))
    CONFIG = os.path.abspath("chdb.xml")
    settings.write(CONFIG)
else:
    PATH, CONFIG, PORT, USER, PASSWORD = sys.argv[1:]
# Where it is imported it looks for settings of its own.
from chdb import session

SERVER = session.Session(f"{PATH}?config-file={CONFIG}")
ONE_AT_A_TIME = threading.Lock()
FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*$")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        sql = self.rfile.read(int(self.headers["Content-Length"]))
        given = [self.headers[name].encode("latin-1") for name in ("X-ClickHouse-User", "X-ClickHouse-Key")]
        if given != [USER.encode(), PASSWORD.encode()]:
            return self.answer(403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)\n")
        found = None if sql[:6].upper() == b"INSERT" else FORMAT.search(sql)
        form = found.group(1).decode() if found else "TabSeparated"
        sql = sql[: found.start()] if found else sql
        with ONE_AT_A_TIME:
            try:
                result = SERVER.query(sql, form)
                self.answer(200, bytes(result.bytes() or b"") if result is not None else b"")
            except Exception as error:
                self.answer(500, str(error).encode() + b"\n")


server = ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler)
for end in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(end, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
SERVER.close()
os._exit(0)
