"""The C++ module, attached to the SQLite inside apsw."""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

from spftcore.errors import SpftError

_ENTRY_POINT = "sqlite3_spftexecutor_init"

_attaching = threading.Lock()


def attached_module() -> ModuleType:
    """The C++ module, after apsw has handed it its SQLite.

    Raises:
        SpftError: the extension is not built, apsw is missing, or SQLite refuses to load it.
    """
    with _attaching:
        try:
            module = importlib.import_module("spftcore._executor")
        except ImportError as error:
            raise SpftError(
                f"The C++ executor cannot be imported ({error}). Build it with "
                "`pip install -e .` in the repository, or reinstall spftcore."
            ) from error
        if module.attached():
            return module
        try:
            import apsw
        except ImportError as error:
            raise SpftError(
                "The executor runs on the SQLite inside apsw, which cannot be imported "
                f"({error}). Install it with `pip install apsw`."
            ) from error
        if not apsw.connections():
            # Memory statistics take a process-wide lock at every allocation. They can be switched
            # off only while SQLite is shut down, which must not happen under open connections.
            apsw.shutdown()
            apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
            apsw.initialize()
        connection = apsw.Connection(":memory:")
        try:
            connection.enable_load_extension(True)
            connection.load_extension(str(module.__file__), _ENTRY_POINT)
            connection.enable_load_extension(False)
        except apsw.Error as error:
            raise SpftError(
                f"apsw {apsw.apsw_version()} could not load the C++ executor: {error}. "
                "Rebuild it with `pip install -e .`."
            ) from error
        finally:
            connection.close()
        return module
