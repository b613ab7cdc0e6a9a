"""Who listens: the tracer and the instruments of the providers that are set now."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from coord._telemetry import names
from coord._version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter
    from opentelemetry.trace import Tracer


class Instruments:
    """All instruments of one meter."""

    __slots__ = (
        "calls", "cleanups", "connections", "events", "holds", "lag", "losses", "overruns", "queue",
        "renewal_times", "renewals", "retries", "streams", "waits",
    )  # fmt: skip

    def __init__(self, meter: Meter) -> None:
        self.calls = _histogram(meter, names.CALL_DURATION)
        self.retries = _counter(meter, names.RETRY_COUNT)
        self.streams = _counter(meter, names.STREAMS)
        self.connections = _counter(meter, names.CONNECTIONS)
        self.waits = _histogram(meter, names.WAIT_DURATION)
        self.holds = _histogram(meter, names.HOLD_DURATION)
        self.queue = _histogram(meter, names.QUEUE)
        self.losses = _counter(meter, names.LOSSES)
        self.overruns = _counter(meter, names.OVERRUNS)
        self.renewals = _counter(meter, names.RENEWALS)
        self.renewal_times = _histogram(meter, names.RENEWAL_DURATION)
        self.events = _counter(meter, names.WATCH_EVENTS)
        self.lag = _histogram(meter, names.WATCH_LAG)
        self.cleanups = _counter(meter, names.CLEANUPS)


def _counter(meter: Meter, metric: names.Metric) -> Counter:
    return meter.create_counter(metric.name, unit=metric.unit, description=metric.description)


def _histogram(meter: Meter, metric: names.Metric) -> Histogram:
    return meter.create_histogram(
        metric.name,
        unit=metric.unit,
        description=metric.description,
        explicit_bucket_boundaries_advisory=list(metric.boundaries),
    )


class Telemetry:
    """What there is to tell: at least one of the two is not None."""

    __slots__ = ("instruments", "tracer")

    def __init__(self, tracer: Tracer | None, instruments: Instruments | None) -> None:
        self.tracer = tracer
        self.instruments = instruments


class _Seen:
    """The providers that were seen last, and what was made of them. Replaced as a whole, so threads need no lock."""

    __slots__ = ("found", "meters", "tracers")

    def __init__(self, tracers: object, meters: object) -> None:
        self.tracers = tracers
        self.meters = meters
        tracer, meter = _tracer(tracers), _meter(meters)
        instruments = None if meter is None else Instruments(meter)
        self.found: Telemetry | None = None
        if tracer is not None or instruments is not None:
            self.found = Telemetry(tracer, instruments)


def _tracer(provider: Any) -> Tracer | None:  # noqa: ANN401 - the API may not be there
    if provider is None:
        return None
    trace = sys.modules["opentelemetry.trace"]
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    made: Tracer = provider.get_tracer(names.SCOPE, __version__)
    return made


def _meter(provider: Any) -> Meter | None:  # noqa: ANN401 - the API may not be there
    # The API's stand-in before a provider is set has no public name.
    if provider is None or type(provider).__module__.startswith("opentelemetry.metrics"):
        return None
    made: Meter = provider.get_meter(names.SCOPE, __version__)
    return made


class Half:
    """Where the API keeps one of its two providers.

    Its getters look into the environment each time as long as none is set, which costs as much as a sixth of a
    request: so after the first question, which may load what the environment names, we look at the variable that they
    return. Where another release has no such variable, the getter is asked every time.
    """

    __slots__ = ("_getter", "_home", "variable", "variables")

    def __init__(self, home: str, variable: str, getter: str) -> None:
        self._home = home
        self._getter = getter
        self.variable = variable
        self.variables: dict[str, object] = {}
        """The module's, once it has been asked and has that variable."""

    def ask(self) -> object:
        """Return the provider that is set, None or the API's stand-in without one."""
        home = sys.modules.get(self._home)
        find = getattr(home, self._getter, None)
        if find is None:  # not imported, or another thread is in the middle of it
            return None
        provider: object = find()
        if self.variable in vars(home):
            self.variables = vars(home)
        return provider


_UNKNOWN = object()
_TRACES = Half("opentelemetry.trace", "_TRACER_PROVIDER", "get_tracer_provider")
_METRICS = Half("opentelemetry.metrics._internal", "_METER_PROVIDER", "get_meter_provider")
_latest = [_Seen(None, None)]


def telemetry() -> Telemetry | None:
    """Return who listens now, None if nobody does. Cheap: called for every request."""
    if "opentelemetry" not in sys.modules:
        return None
    # Looked up here when they are known: this is most of what telemetry costs those who do not use it.
    tracers = _TRACES.variables.get(_TRACES.variable, _UNKNOWN)
    if tracers is _UNKNOWN:
        tracers = _TRACES.ask()
    meters = _METRICS.variables.get(_METRICS.variable, _UNKNOWN)
    if meters is _UNKNOWN:
        meters = _METRICS.ask()
    seen = _latest[0]
    if tracers is not seen.tracers or meters is not seen.meters:
        seen = _latest[0] = _Seen(tracers, meters)
    return seen.found
