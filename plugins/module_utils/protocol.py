# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nix's worker protocol: what nix-daemon and ssh-ng:// speak. Every message is described once, for both ends.

Pure. Layouts: worker-protocol.cc, worker-protocol-connection.cc, daemon.cc, derivations.cc, logging.cc of Nix 2.8.0,
2.26.3 and 2.34.8; 2.36 in development (88b09c64) is the same with the empty set of features that we send.

A connection: handshake, then operations, one after the other. Each is a request (its number, then its fields), then
messages of the server until C(LAST) or C(ERROR), then after C(LAST) the reply. A client may send the next request
before it has the reply: the server answers in order.
"""

from __future__ import annotations

import enum
import io
import json
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import BasicDerivation, Output
from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import (
    BOOL,
    LOG,
    NOTHING,
    NUMBER,
    OPTIONAL_PATH,
    PATH,
    PATHS,
    TEXT,
    WORD,
    Codec,
    Constant,
    Label,
    ListOf,
    MapOf,
    Maybe,
    ProtocolError,
    Reader,
    Record,
    Since,
    Version,
    Writer,
)

_Q = t.TypeVar("_Q")
_A = t.TypeVar("_A")

#: What we speak. Nix 2.8 to 2.14 speak 1.34, 2.15 to 2.19 1.35, 2.20 to 2.23 1.37, 2.24 and newer 1.38.
OLDEST: Version = (1, 34)
NEWEST: Version = (1, 38)

_FEATURES: Version = (1, 38)
_CPU_TIMES: Version = (1, 37)
_TRUST: Version = (1, 35)


class VersionError(Exception):
    """The other end speaks no version of the protocol that we speak."""


# ---------------------------------------------------------------------------------------------------- values


class _Hash(Codec[str]):
    """A SHA-256 as 64 digits of base 16, without "sha256:"."""

    def write(self, out: Writer, value: str) -> None:
        TEXT.write(out, value)

    def read(self, source: Reader) -> str:
        start = source.offset
        value = PATH.read(source)
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise ProtocolError(f"{shown(value)} is no SHA-256 in base 16", start)
        return value


class PathInfo(t.NamedTuple):
    """What a store knows of a valid path. Paths are full paths.

    nar_hash: base 16, 64 digits without "sha256:". nar_size: bytes. registration_time: seconds since 1970.
    ultimate: built by that store itself. signatures: "name:base64". ca: how its content makes its name, or "".
    """

    path: str
    deriver: str | None
    nar_hash: str
    references: tuple[str, ...]
    registration_time: int
    nar_size: int
    ultimate: bool
    signatures: tuple[str, ...]
    ca: str


_UNKEYED: tuple[tuple[str, Codec[t.Any]], ...] = (
    ("deriver", OPTIONAL_PATH),
    ("nar_hash", _Hash()),
    ("references", PATHS),
    ("registration_time", NUMBER),
    ("nar_size", NUMBER),
    ("ultimate", BOOL),
    ("signatures", ListOf(PATH)),
    ("ca", PATH),
)
#: Before each NAR in AddMultipleToStore.
PATH_INFO: Codec[PathInfo] = Record(PathInfo, ("path", PATH), *_UNKEYED)


def _without_path(**fields: t.Any) -> PathInfo:
    """The reply of QueryPathInfo does not repeat the path."""
    return PathInfo(path="", **fields)


def _with_path(path: str, info: PathInfo | None) -> PathInfo | None:
    return None if info is None else info._replace(path=path)


class BuildStatus(enum.IntEnum):
    """How a build ended (build-result.hh)."""

    BUILT = 0
    SUBSTITUTED = 1
    ALREADY_VALID = 2
    PERMANENT_FAILURE = 3
    INPUT_REJECTED = 4
    OUTPUT_REJECTED = 5
    TRANSIENT_FAILURE = 6
    CACHED_FAILURE = 7
    TIMED_OUT = 8
    MISC_FAILURE = 9
    DEPENDENCY_FAILED = 10
    LOG_LIMIT_EXCEEDED = 11
    NOT_DETERMINISTIC = 12
    RESOLVES_TO_ALREADY_VALID = 13
    NO_SUBSTITUTERS = 14


_GOOD = (BuildStatus.BUILT, BuildStatus.SUBSTITUTED, BuildStatus.ALREADY_VALID, BuildStatus.RESOLVES_TO_ALREADY_VALID)


class _Status(Codec[BuildStatus]):
    def write(self, out: Writer, value: BuildStatus) -> None:
        NUMBER.write(out, value)

    def read(self, source: Reader) -> BuildStatus:
        number = NUMBER.read(source)
        if number > max(BuildStatus):
            raise ProtocolError(f"{number} is no status of a build", source.offset - WORD)
        return BuildStatus(number)


class BuildResult(t.NamedTuple):
    """What a store says of one finished build.

    start_time, stop_time: seconds since 1970, 0 where nothing was built. cpu_user, cpu_system: microseconds, None
    where not known (Nix before 2.20 never says). built_outputs: as sent, see outputs().
    """

    status: BuildStatus
    error: str
    times_built: int
    non_deterministic: bool
    start_time: int
    stop_time: int
    cpu_user: int | None
    cpu_system: int | None
    built_outputs: t.Mapping[str, str]

    @property
    def success(self) -> bool:
        return self.status in _GOOD

    @property
    def message(self) -> str:
        """Why it failed, without colours."""
        return plain(self.error)

    def outputs(self) -> dict[str, str]:
        """The base name of each output's path by the output's name. Raises ProtocolError.

        On the wire the key is "HASH!NAME" and the value JSON with "outPath" (realisation.cc).
        """
        found = {}
        for key, text in self.built_outputs.items():
            try:
                found[key.partition("!")[2]] = str(json.loads(text)["outPath"]).rpartition("/")[2]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ProtocolError(f"{shown(text)} is no output of a build", 0) from error
        return found


BUILD_RESULT: Codec[BuildResult] = Record(
    BuildResult,
    ("status", _Status()),
    ("error", LOG),
    ("times_built", NUMBER),
    ("non_deterministic", BOOL),
    ("start_time", NUMBER),
    ("stop_time", NUMBER),
    ("cpu_user", Since(_CPU_TIMES, Maybe(NUMBER), None)),
    ("cpu_system", Since(_CPU_TIMES, Maybe(NUMBER), None)),
    ("built_outputs", MapOf(TEXT, TEXT)),
)


class KeyedBuildResult(t.NamedTuple):
    """target: as it was asked for, see derived_path()."""

    target: str
    result: BuildResult


class Missing(t.NamedTuple):
    """What a store would do to make targets valid. Sizes in bytes; unknown: paths nobody can make."""

    will_build: tuple[str, ...]
    will_substitute: tuple[str, ...]
    unknown: tuple[str, ...]
    download_size: int
    nar_size: int


_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def plain(text: str) -> str:
    """Nix's text without colours."""
    return _COLOUR.sub("", text)


def derived_path(path: str, outputs: t.Iterable[str] | None = None) -> str:
    """What builds are asked for: a path, or outputs of a .drv ("*" for all)."""
    return path if outputs is None else f"{path}!{','.join(sorted(outputs))}"


# ---------------------------------------------------------------------------------------------------- handshake


class Hello(t.NamedTuple):
    """What each end says first."""

    version: Version


class _Version(Codec[Version]):
    def write(self, out: Writer, value: Version) -> None:
        NUMBER.write(out, value[0] << 8 | value[1])

    def read(self, source: Reader) -> Version:
        number = source.length(0xFFFF, "as the version")
        return number >> 8, number & 0xFF


class _Magic(Constant):
    """How an end begins. What a shell prints comes in its place."""

    def read(self, source: Reader) -> None:
        data = source.read(WORD)
        source.offset += WORD
        if int.from_bytes(data, "little") != self.number:
            raise ProtocolError(
                f"instead of Nix's greeting came {shown(data)[1:]}: is it Nix, and does the login print nothing?", 0
            )


CLIENT_HELLO: Codec[Hello] = Record(Hello, ("_magic", _Magic(0x6E697863)), ("version", _Version()))
SERVER_HELLO: Codec[Hello] = Record(Hello, ("_magic", _Magic(0x6478696F)), ("version", _Version()))


class Greeting(t.NamedTuple):
    """What the client says once the version is agreed on. No feature is asked for: each only adds what we do not use
    ("realisation-with-path-not-hash" changes BuildResult).
    """

    features: tuple[str, ...] = ()


CLIENT_GREETING: Codec[Greeting] = Record(
    Greeting,
    ("features", Since(_FEATURES, ListOf(TEXT), ())),
    ("_cpu_affinity", Constant(0)),
    ("_reserve_space", Constant(0)),
)


class ServerInfo(t.NamedTuple):
    """What the server says of itself. trusted: whether it trusts us; None where it does not say (Nix before 2.15).
    After it come messages up to LAST or ERROR, as for an operation.
    """

    features: tuple[str, ...]
    nix_version: str
    trusted: bool | None


class _Trust(Codec[t.Optional[bool]]):
    def write(self, out: Writer, value: bool | None) -> None:
        NUMBER.write(out, 0 if value is None else 1 if value else 2)

    def read(self, source: Reader) -> bool | None:
        number = source.word()
        if number > 2:
            raise ProtocolError(f"{number} is no trust", source.offset - WORD)
        return (None, True, False)[number]


SERVER_INFO: Codec[ServerInfo] = Record(
    ServerInfo,
    ("features", Since(_FEATURES, ListOf(TEXT), ())),
    ("nix_version", TEXT),
    ("trusted", Since(_TRUST, _Trust(), None)),
)


#: The first Nix of each version of the protocol that is too old for us (worker-protocol.hh of the release tags).
_OLD_NIX = (((1, 33), "2.7"), ((1, 32), "2.4"), ((1, 21), "2.3"), ((0, 0), "older than 2.3"))


def agree(theirs: Version) -> Version:
    """The version both ends then speak: the older one. Raises VersionError."""
    spoken = f"this speaks {_dotted(OLDEST)} (Nix 2.8) to {_dotted(NEWEST)} (Nix 2.24 and newer)"
    if theirs[0] > NEWEST[0]:
        raise VersionError(f"the store speaks version {_dotted(theirs)} of the worker protocol; {spoken}")
    if theirs < OLDEST:
        nix = next(nix for version, nix in _OLD_NIX if theirs >= version)
        raise VersionError(
            f"the store speaks version {_dotted(theirs)} of the worker protocol (Nix {nix}); {spoken}: update its Nix"
        )
    return min(theirs, NEWEST)


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


# ---------------------------------------------------------------------------------------------------- operations


@dataclass(frozen=True)
class Operation(t.Generic[_Q, _A]):
    """One operation. framed: after the request comes a stream in frames. nar: instead of the reply comes a NAR, whose
    length is not told. patient: the server may be silent for as long as a build or a download takes.
    complete: adds to a reply what only the request says, on the end that has both.
    """

    name: str
    number: int
    request: Codec[_Q]
    reply: Codec[_A]
    framed: bool = False
    nar: bool = False
    patient: bool = False
    complete: t.Callable[[_Q, _A], _A] | None = None


class ValidPathsRequest(t.NamedTuple):
    """substitute: fetch what the store's own substituters have, before the answer."""

    paths: tuple[str, ...]
    substitute: bool


class SignaturesRequest(t.NamedTuple):
    path: str
    signatures: tuple[str, ...]


class AddManyRequest(t.NamedTuple):
    """Then in frames: the number of paths, and each one's PATH_INFO and NAR. Its references must come before it."""

    repair: bool
    dont_check_signatures: bool


class BuildMode(enum.IntEnum):
    NORMAL = 0
    REPAIR = 1
    CHECK = 2


class _Mode(Codec[BuildMode]):
    def write(self, out: Writer, value: BuildMode) -> None:
        NUMBER.write(out, value)

    def read(self, source: Reader) -> BuildMode:
        return BuildMode(source.length(max(BuildMode), "as the build mode"))


class BuildDerivationRequest(t.NamedTuple):
    """drv_path: gives the derivation its name; need not be valid there."""

    drv_path: str
    derivation: BasicDerivation
    mode: BuildMode = BuildMode.NORMAL


class BuildRequest(t.NamedTuple):
    """targets: see derived_path()."""

    targets: tuple[str, ...]
    mode: BuildMode = BuildMode.NORMAL


class Options(t.NamedTuple):
    """What SetOptions changes for the rest of a connection. Each field counts, there is no "leave as it is".

    max_silent_time: seconds, 0 for no limit. verbosity: 0 errors, 3 as usual. verbose_build: 0 has build logs printed.
    build_cores: 0 for all. overrides: other settings by name, such as "timeout"; an untrusted client may set few.
    """

    max_build_jobs: int
    build_cores: int
    keep_failed: bool = False
    keep_going: bool = True
    try_fallback: bool = False
    verbosity: int = 3
    max_silent_time: int = 0
    verbose_build: int = 0
    use_substitutes: bool = True
    overrides: t.Mapping[str, str] = {}


_OUTPUT: Codec[Output] = Record(Output, ("path", TEXT), ("hash_algo", TEXT), ("hash", TEXT))
_DERIVATION: Codec[BasicDerivation] = Record(
    BasicDerivation,
    ("outputs", MapOf(TEXT, _OUTPUT)),
    ("input_srcs", PATHS),
    ("platform", TEXT),
    ("builder", TEXT),
    ("args", ListOf(TEXT)),
    ("env", MapOf(TEXT, TEXT)),
)
_DONE = Constant(1)
_BUILD: Codec[BuildRequest] = Record(BuildRequest, ("targets", ListOf(TEXT)), ("mode", _Mode()))
_RESULT: Codec[KeyedBuildResult] = Record(KeyedBuildResult, ("target", TEXT), ("result", BUILD_RESULT))

IS_VALID_PATH: Operation[str, bool] = Operation("IsValidPath", 1, PATH, BOOL)
ENSURE_PATH: Operation[str, None] = Operation("EnsurePath", 10, PATH, _DONE, patient=True)
ADD_TEMP_ROOT: Operation[str, None] = Operation("AddTempRoot", 11, PATH, _DONE)
ADD_INDIRECT_ROOT: Operation[str, None] = Operation("AddIndirectRoot", 12, PATH, _DONE)
SET_OPTIONS: Operation[Options, None] = Operation(
    "SetOptions",
    19,
    Record(
        Options,
        ("keep_failed", BOOL),
        ("keep_going", BOOL),
        ("try_fallback", BOOL),
        ("verbosity", NUMBER),
        ("max_build_jobs", NUMBER),
        ("max_silent_time", NUMBER),
        ("_use_build_hook", Constant(1)),
        ("verbose_build", NUMBER),
        ("_log_type", Constant(0)),
        ("_print_build_trace", Constant(0)),
        ("build_cores", NUMBER),
        ("use_substitutes", BOOL),
        ("overrides", MapOf(TEXT, TEXT)),
    ),
    NOTHING,
)
QUERY_PATH_INFO: Operation[str, PathInfo | None] = Operation(
    "QueryPathInfo", 26, PATH, Maybe(Record(_without_path, *_UNKEYED)), complete=_with_path
)
QUERY_VALID_PATHS: Operation[ValidPathsRequest, tuple[str, ...]] = Operation(
    "QueryValidPaths", 31, Record(ValidPathsRequest, ("paths", PATHS), ("substitute", BOOL)), PATHS, patient=True
)
BUILD_DERIVATION: Operation[BuildDerivationRequest, BuildResult] = Operation(
    "BuildDerivation",
    36,
    Record(BuildDerivationRequest, ("drv_path", PATH), ("derivation", _DERIVATION), ("mode", _Mode())),
    BUILD_RESULT,
    patient=True,
)
ADD_SIGNATURES: Operation[SignaturesRequest, None] = Operation(
    "AddSignatures", 37, Record(SignaturesRequest, ("path", PATH), ("signatures", ListOf(PATH))), _DONE
)
NAR_FROM_PATH: Operation[str, None] = Operation("NarFromPath", 38, PATH, NOTHING, nar=True)
QUERY_MISSING: Operation[tuple[str, ...], Missing] = Operation(
    "QueryMissing",
    40,
    ListOf(TEXT),
    Record(
        Missing,
        ("will_build", PATHS),
        ("will_substitute", PATHS),
        ("unknown", PATHS),
        ("download_size", NUMBER),
        ("nar_size", NUMBER),
    ),
    patient=True,
)
QUERY_DERIVATION_OUTPUT_MAP: Operation[str, t.Mapping[str, str | None]] = Operation(
    "QueryDerivationOutputMap", 41, PATH, MapOf(TEXT, OPTIONAL_PATH)
)
ADD_MULTIPLE_TO_STORE: Operation[AddManyRequest, None] = Operation(
    "AddMultipleToStore",
    44,
    Record(AddManyRequest, ("repair", BOOL), ("dont_check_signatures", BOOL)),
    NOTHING,
    framed=True,
    patient=True,
)
BUILD_PATHS_WITH_RESULTS: Operation[BuildRequest, tuple[KeyedBuildResult, ...]] = Operation(
    "BuildPathsWithResults", 46, _BUILD, ListOf(_RESULT), patient=True
)
#: By number, for the end that reads requests.
OPERATIONS: t.Mapping[int, Operation[t.Any, t.Any]] = {
    operation.number: operation for operation in list(vars().values()) if isinstance(operation, Operation)
}


def request_bytes(operation: Operation[_Q, t.Any], request: _Q, version: Version) -> bytes:
    """A request, up to where the frames begin."""
    out = Writer(version)
    NUMBER.write(out, operation.number)
    operation.request.write(out, request)
    return bytes(out.data)


def read_request(source: Reader) -> tuple[Operation[t.Any, t.Any], t.Any]:
    """The next request, as a server reads it. Raises ProtocolError."""
    number = NUMBER.read(source)
    if number not in OPERATIONS:
        raise ProtocolError(f"{number} is no operation", source.offset - WORD)
    operation = OPERATIONS[number]
    return operation, read_value(operation.name, operation.request, source)


def read_value(operation: str, codec: Codec[_A], source: Reader) -> _A:
    """Reads a message or a reply; a ProtocolError then says of which operation."""
    source.begin()
    try:
        return codec.read(source)
    except ProtocolError as error:
        error.operation = operation
        raise


# ---------------------------------------------------------------------------------------------------- messages


class Trace(t.NamedTuple):
    """One "while doing ..." of an error, as sent."""

    text: str


class RemoteError(Exception):
    """The store refused or failed an operation. The connection can be used further.

    level: 0 is an error. raw: Nix's text as sent. traces: see Trace. operation: its name, filled in by who knows it.
    """

    def __init__(self, level: int, raw: str, traces: t.Sequence[Trace] = ()) -> None:
        super().__init__(level, raw, traces)
        self.level = level
        self.raw = raw
        self.traces = tuple(traces)
        self.operation = ""

    @property
    def message(self) -> str:
        """Nix's text without colours."""
        return plain(self.raw)

    def __str__(self) -> str:
        return f"{self.operation}: {self.message}" if self.operation else self.message


class Note(t.NamedTuple):
    """A text for the user, warnings among them; with colours and line ends."""

    text: str


class Started(t.NamedTuple):
    """An activity began. kind: 105 builds, 100 copies a path, 108 substitutes, ... (logging.hh)."""

    activity: int
    level: int
    kind: int
    text: str
    fields: tuple[int | str, ...]
    parent: int


class Stopped(t.NamedTuple):
    activity: int


class Result(t.NamedTuple):
    """News of an activity of a kind that has no class of its own."""

    activity: int
    kind: int
    fields: tuple[int | str, ...]


class LogLine(t.NamedTuple):
    """A line of a build's log, without its end."""

    activity: int
    text: str


class Phase(t.NamedTuple):
    """A build enters a phase."""

    activity: int
    name: str


class Progress(t.NamedTuple):
    activity: int
    done: int
    expected: int
    running: int
    failed: int


Event = t.Union[Note, Started, Stopped, Result, LogLine, Phase, Progress]


class Last(t.NamedTuple):
    """No more messages: the reply follows."""


_LOG_LINE, _PHASE, _PROGRESS = 101, 104, 105


class _Field(Codec[t.Union[int, str]]):
    def write(self, out: Writer, value: int | str) -> None:
        if isinstance(value, int):
            NUMBER.write(out, 0)
            NUMBER.write(out, value)
        else:
            NUMBER.write(out, 1)
            TEXT.write(out, value)

    def read(self, source: Reader) -> int | str:
        kind = source.word()
        if kind > 1:
            raise ProtocolError(f"{kind} is no type of a field", source.offset - WORD)
        return LOG.read(source) if kind else NUMBER.read(source)


_FIELDS: Codec[tuple[int | str, ...]] = ListOf(_Field(), 1 << 16)
_TRACE: Codec[Trace] = Record(Trace, ("_have_position", Constant(0)), ("text", LOG))
#: A message is one of these numbers and its fields.
_MESSAGES: t.Mapping[int, tuple[type, Codec[t.Any]]] = {
    0x6F6C6D67: (Note, Record(Note, ("text", LOG))),
    0x53545254: (
        Started,
        Record(
            Started,
            ("activity", NUMBER),
            ("level", NUMBER),
            ("kind", NUMBER),
            ("text", LOG),
            ("fields", _FIELDS),
            ("parent", NUMBER),
        ),
    ),
    0x53544F50: (Stopped, Record(Stopped, ("activity", NUMBER))),
    0x52534C54: (Result, Record(Result, ("activity", NUMBER), ("kind", NUMBER), ("fields", _FIELDS))),
    0x616C7473: (Last, Record(Last)),
    0x63787470: (
        RemoteError,
        Record(
            RemoteError,
            ("_type", Label("Error")),
            ("level", NUMBER),
            ("_name", Label("Error")),
            ("raw", LOG),
            ("_have_position", Constant(0)),
            ("traces", ListOf(_TRACE, 1 << 16)),
        ),
    ),
}
_NUMBERS = {kind: number for number, (kind, _codec) in _MESSAGES.items()}
ERROR = _NUMBERS[RemoteError]

Message = t.Union[Event, Last, RemoteError]


#: How the bytes of an error begin.
ERROR_BEGIN = b"".join(number.to_bytes(WORD, "little") for number in (ERROR, len("Error"))) + b"Error"


def late_error(data: bytes) -> RemoteError | None:
    """The error within bytes that should have been a NAR's: a server that fails while it sends one has no other place
    for it, and then closes the connection (daemon.cc, processConnection).
    """
    stream = io.BytesIO(data)
    stream.seek(max(data.rfind(ERROR_BEGIN), 0))

    def read(size: int) -> bytes:
        part = stream.read(size)
        if len(part) < size:
            raise ProtocolError("the end", 0)
        return part

    try:
        message = MESSAGE.read(Reader(read, NEWEST))
    except ProtocolError:
        return None
    return message if isinstance(message, RemoteError) else None


class _Message(Codec[Message]):
    def write(self, out: Writer, value: Message) -> None:
        if isinstance(value, LogLine):
            value = Result(value.activity, _LOG_LINE, (value.text,))
        elif isinstance(value, Phase):
            value = Result(value.activity, _PHASE, (value.name,))
        elif isinstance(value, Progress):
            value = Result(value.activity, _PROGRESS, value[1:])
        number = _NUMBERS[type(value)]
        NUMBER.write(out, number)
        _MESSAGES[number][1].write(out, value)

    def read(self, source: Reader) -> Message:
        number = source.word()
        if number not in _MESSAGES:
            raise ProtocolError(f"{number:#x} is no message", source.offset - WORD)
        value: Message = _MESSAGES[number][1].read(source)
        return _known(value) if isinstance(value, Result) else value


def _known(result: Result) -> Event:
    """News with a class of their own."""
    fields = result.fields
    if result.kind in (_LOG_LINE, _PHASE) and len(fields) == 1 and isinstance(fields[0], str):
        return (LogLine if result.kind == _LOG_LINE else Phase)(result.activity, fields[0])
    if result.kind == _PROGRESS and len(fields) == 4 and all(isinstance(field, int) for field in fields):
        return Progress(result.activity, *t.cast("tuple[int, int, int, int]", fields))
    return result


MESSAGE = _Message()
