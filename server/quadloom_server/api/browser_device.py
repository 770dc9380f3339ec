"""The page at /device, which makes a browser tab a device, and the files that it is made of.

Everything comes from this server, and the page may load nothing from anywhere else: its own modules lie in the folder
`browser_device` of this package, the libraries that they use in a folder that `npm ci` made of its lock file.
"""

from html import escape
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from quadloom_server.errors import RefusedRequestError

PAGE_FOLDER: Final = Path(__file__).parents[1] / "browser_device"
INSTALLED_PACKAGES: Final = PAGE_FOLDER / "node_modules"
PACKAGE_FILES: Final = (
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
)
MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}
INSTALL: Final = (
    "in the folder of package.json and package-lock.json (server/quadloom_server/browser_device), run "
    "`npm ci --omit=dev --ignore-scripts`, or start `quadloom serve` with --browser-packages and such a node_modules "
    "folder"
)
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A new release must not meet old modules: the browser asks each time, and is told that nothing changed.
    "Cache-Control": "no-cache",
}


def browser_device_routes(packages: Path = INSTALLED_PACKAGES) -> APIRouter:
    """The routes of the page.

    Args:
        packages: folder with the libraries, as npm lays them out; what is missing is looked for at each request.
    """
    router = APIRouter(prefix="/device", include_in_schema=False)
    # Only these names are served: no path of a request ever reaches the disk.
    files = {f"/{each.name}": each for each in PAGE_FOLDER.iterdir() if each.suffix in (".css", ".js")}
    files |= {f"/packages/{name}": packages / name for name in PACKAGE_FILES}

    @router.get("")
    def page(request: Request) -> Response:
        if not all((packages / name).is_file() for name in PACKAGE_FILES):
            sentence = f"The libraries of this page are not installed: {INSTALL}."
            return HTMLResponse(f"<!doctype html><p>{escape(sentence)}</p>", status_code=503, headers=HEADERS)
        return _file(request, PAGE_FOLDER / "index.html")

    @router.get("/{name:path}")
    def part(request: Request, name: str) -> Response:
        found = files.get(f"/{name}")
        if found is None or not found.is_file():
            raise RefusedRequestError(
                f"the page /device has no file {name[:200]!r}", remedy=INSTALL, code="unknown-path", http_status=404
            )
        return _file(request, found)

    return router


def _file(request: Request, path: Path) -> Response:
    answer = FileResponse(path, media_type=MEDIA_TYPES[path.suffix], stat_result=path.stat(), headers=HEADERS)
    if request.headers.get("if-none-match") == answer.headers["etag"]:
        return Response(status_code=304, headers=HEADERS | {"ETag": answer.headers["etag"]})
    return answer
