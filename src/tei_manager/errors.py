"""The error tree: what a user can cause or mend, with the answer that each protocol gives.

    TeiManagerError            code                    HTTP   gRPC
    ├─ ValidationFailed        VALIDATION_ERROR        422    3 INVALID_ARGUMENT
    ├─ InvalidSettings         INVALID_CONFIG          400    3 INVALID_ARGUMENT
    ├─ InvalidGpuId            INVALID_GPU_ID          400    3 INVALID_ARGUMENT
    ├─ InstanceNotFound        INSTANCE_NOT_FOUND      404    5 NOT_FOUND
    ├─ InstanceExists          INSTANCE_EXISTS         409    6 ALREADY_EXISTS
    ├─ PortConflict            PORT_CONFLICT           409    6 ALREADY_EXISTS
    ├─ AlreadyRunning          ALREADY_RUNNING         409    9 FAILED_PRECONDITION
    ├─ NotRunning              NOT_RUNNING             409    9 FAILED_PRECONDITION
    ├─ InvalidInstanceState    INVALID_INSTANCE_STATE  409    9 FAILED_PRECONDITION
    ├─ MaxInstancesReached     MAX_INSTANCES_REACHED   422    8 RESOURCE_EXHAUSTED
    ├─ PortAllocationFailed    PORT_ALLOCATION_FAILED  422    8 RESOURCE_EXHAUSTED
    ├─ ModelNotFound           MODEL_NOT_FOUND         404    5 NOT_FOUND
    ├─ ModelBusy               MODEL_BUSY              409    9 FAILED_PRECONDITION
    ├─ ModelIncomplete         MODEL_LOAD_FAILED       409    9 FAILED_PRECONDITION
    ├─ ModelDownloadFailed     MODEL_DOWNLOAD_FAILED   500    13 INTERNAL
    ├─ LaunchFailed            INTERNAL_ERROR          500    13 INTERNAL
    ├─ CertificateRefused      INVALID_CONFIG          400    3 INVALID_ARGUMENT
    └─ StateFailed             IO_ERROR                500    13 INTERNAL

A class carries its stable code and both statuses, so that the edges (`api.problems`,
`grpc.status`) need no table of their own. ``str()`` of an error is one clear sentence that
says what to do next. The numbers of gRPC statuses are those of `grpc.status.Code`, which
lies above this file and so cannot be imported here; a test holds them against it.
"""

from __future__ import annotations

from typing import ClassVar


class TeiManagerError(Exception):
    """Any failure that a user can cause or mend; ``str()`` is one clear sentence."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[int] = 13


class ValidationFailed(TeiManagerError):
    """A request that is well-formed but says something that cannot be done."""

    code = "VALIDATION_ERROR"
    http_status = 422
    grpc_status = 3


class InvalidSettings(TeiManagerError):
    """Settings with mistakes in them; ``mistakes`` has one sentence for each of them."""

    code = "INVALID_CONFIG"
    http_status = 400
    grpc_status = 3

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class InvalidGpuId(TeiManagerError):
    """A GPU was named that this machine does not have."""

    code = "INVALID_GPU_ID"
    http_status = 400
    grpc_status = 3


class InstanceNotFound(TeiManagerError):
    """No instance has the name that was given."""

    code = "INSTANCE_NOT_FOUND"
    http_status = 404
    grpc_status = 5

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"Instance '{name}' not found")


class InstanceExists(TeiManagerError):
    """The name of a new instance is taken."""

    code = "INSTANCE_EXISTS"
    http_status = 409
    grpc_status = 6

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"Instance '{name}' already exists; delete it first or choose a new name")


class PortConflict(TeiManagerError):
    """A port was asked for that something else holds."""

    code = "PORT_CONFLICT"
    http_status = 409
    grpc_status = 6


class AlreadyRunning(TeiManagerError):
    """A start was asked of an instance that is not at rest."""

    code = "ALREADY_RUNNING"
    http_status = 409
    grpc_status = 9


class NotRunning(TeiManagerError):
    """A stop was asked of an instance that is stopped."""

    code = "NOT_RUNNING"
    http_status = 409
    grpc_status = 9


class InvalidInstanceState(TeiManagerError):
    """The instance is in a state in which the request has no meaning."""

    code = "INVALID_INSTANCE_STATE"
    http_status = 409
    grpc_status = 9


class MaxInstancesReached(TeiManagerError):
    """One more instance would be over ``[instances] max``."""

    code = "MAX_INSTANCES_REACHED"
    http_status = 422
    grpc_status = 8


class PortAllocationFailed(TeiManagerError):
    """No port of the configured range is free."""

    code = "PORT_ALLOCATION_FAILED"
    http_status = 422
    grpc_status = 8


class ModelNotFound(TeiManagerError):
    """Nothing is known of a model."""

    code = "MODEL_NOT_FOUND"
    http_status = 404
    grpc_status = 5

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is neither here nor registered; add or download it")


class ModelBusy(TeiManagerError):
    """Something is done with a model, or uses it, that what was asked for would disturb."""

    code = "MODEL_BUSY"
    http_status = 409
    grpc_status = 9


class ModelIncomplete(TeiManagerError):
    """A model cannot be tried, because files of it are missing."""

    code = "MODEL_LOAD_FAILED"
    http_status = 409
    grpc_status = 9

    def __init__(self, model_id: str, missing: tuple[str, ...]) -> None:
        names = ", ".join(missing)
        super().__init__(f"Model '{model_id}' lacks {names}; download it first")


class ModelDownloadFailed(TeiManagerError):
    """A model could not be had from the hub."""

    code = "MODEL_DOWNLOAD_FAILED"


class LaunchFailed(TeiManagerError):
    """The program of an instance could not be started."""


class CertificateRefused(TeiManagerError):
    """A server's certificate, key or client CA cannot be used."""

    code = "INVALID_CONFIG"
    http_status = 400
    grpc_status = 3


class StateFailed(TeiManagerError):
    """The state file could not be read or written; nothing was changed."""

    code = "IO_ERROR"
