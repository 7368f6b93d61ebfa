"""Brings the clients and their suites that Debian does not package into a cache directory.

Versions and hashes are in pins/. What is there is kept until the pins change.
Not here: Debian packages, which ./test.sh setup installs.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parent / "pins"


class Cache:
    """Where everything is; see `install`."""

    def __init__(self, root):
        self.root = root
        self.python = root / "python/bin/python"
        self.sdists = root / "sdists"
        self.node = root / "node"
        self.go = root / "go-build"

    def install(self, log):
        """Fetches what is missing; what the package managers say goes to the file `log`."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            for fill, place, pins in [
                (self._install_python, self.root / "python", ["requirements.txt"]),
                (self._install_sdists, self.sdists, ["sdists.txt"]),
                (self._install_node, self.node, ["package.json", "package-lock.json"]),
            ]:
                self._keep(place, pins, fill, output)

    def _keep(self, place, pins, fill, output):
        """Fills the directory `place` unless it was filled with these pins."""
        digest = hashlib.sha256(sys.version.encode())
        for name in pins:
            digest.update((PINS / name).read_bytes())
        stamp = place / "pins.sha256"
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        # Half-filled, or by other pins.
        shutil.rmtree(place, ignore_errors=True)
        fill(place, output)
        # Last, so that what was interrupted is done again.
        stamp.write_text(digest.hexdigest())

    def _install_python(self, place, output):
        run([sys.executable, "-m", "venv", place], output)
        run(
            [self.python, "-m", "pip", "install", "--require-hashes", "--no-deps"]
            + ["--only-binary", ":all:", "-r", PINS / "requirements.txt"],
            output,
        )

    def _install_sdists(self, place, output):
        place.mkdir()
        run(
            [self.python, "-m", "pip", "download", "--require-hashes", "--no-deps"]
            + ["--no-binary", ":all:", "-r", PINS / "sdists.txt", "-d", place],
            output,
        )
        for archive in place.glob("*.tar.gz"):
            run(["tar", "xzf", archive, "-C", place], output)

    def _install_node(self, place, output):
        place.mkdir()
        for name in ["package.json", "package-lock.json"]:
            shutil.copy(PINS / name, place)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], output, cwd=place)

    def sdist(self, name):
        """The unpacked source package `name`."""
        [found] = [path for path in self.sdists.glob(f"{name}-*") if path.is_dir()]
        return found


def run(command, output, cwd=None):
    command = [str(part) for part in command]
    output.write(f"$ {' '.join(command)}\n".encode())
    output.flush()
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        timeout=600,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}, see {output.name}")
