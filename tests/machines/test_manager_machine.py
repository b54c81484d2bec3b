"""M4: whatever is asked of a manager and whatever happens to it, in whatever order.

1. An instance has one process at most, and none while it is at rest.
2. No two instances share a port.
3. The state file has what the manager has, also after writes that failed and after its own death,
   save for what could not be written and waits.
4. What was granted is what is wanted: nothing else starts or stops an instance.
5. Workers are told that an instance runs only while it does.
6. Whoever asks gets an answer; a delete gets it when the process is gone.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machine_settings import MACHINE
from memory_manager import MemoryManager, MemoryWatch, memory_manager

from tei_manager.errors import StateFailed, TeiManagerError
from tei_manager.manager.instance import Desired
from tei_manager.manager.lifecycle import ENDING, Event, Phase
from tei_manager.routes import RouteState
from tei_manager.settings import InstanceSpec

NAMES = st.sampled_from(["a", "b"])
PORTS = st.sampled_from([None, None, 20001, 20002])
WRITES = st.sampled_from([[], [], [], [False], [True, False], [True, True, False]])
"""To the state file; those behind them go well."""
ASKED = {
    Event.START: Desired.RUNNING,
    Event.RESTART: Desired.RUNNING,
    Event.STOP: Desired.STOPPED,
}
# A step is a dozen of SQLite's transactions.
RUNS = settings(MACHINE, max_examples=MACHINE.max_examples // 4)
RESTING = {Phase.STOPPED, Phase.FAILED, Phase.BACKOFF}


class ManagerMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._context = memory_manager(Path(self._folder.name))
        self.memory: MemoryManager = self._context.__enter__()
        self.wanted: dict[str, Desired] = {}
        self.deletes: dict[str, asyncio.Task[Any]] = {}

    @property
    def _instances(self) -> dict[str, Any]:
        return self.memory.supervisors()

    @rule(name=NAMES, port=PORTS, metrics_port=PORTS, autostart=st.booleans(), writes=WRITES)
    def create(
        self,
        name: str,
        port: int | None,
        metrics_port: int | None,
        autostart: bool,
        writes: list[bool],
    ) -> None:
        spec = InstanceSpec(
            name=name,
            model_id="m",
            port=port,
            prometheus_port=metrics_port,
            autostart=autostart,
        )
        existed = name in self._instances
        created = self.memory.begin(self.memory.registry.create(spec), writes)
        assert created.done()
        if (error := created.exception()) is not None:
            assert isinstance(error, TeiManagerError)
            assert existed or name not in self._instances, "half of an instance"
        if not existed and name in self._instances:
            self.wanted[name] = Desired.RUNNING if autostart else Desired.STOPPED

    @rule(name=NAMES, event=st.sampled_from(list(ASKED)), writes=WRITES)
    def ask(self, name: str, event: Event, writes: list[bool]) -> None:
        if name not in self._instances:
            return
        asked = self.memory.begin(self._instances[name].request(event), writes)
        assert asked.done(), "whoever asks is answered at once"
        if asked.exception() is None:
            self.wanted[name] = ASKED[event]
        else:
            assert isinstance(asked.exception(), TeiManagerError)
            if isinstance(asked.exception(), StateFailed):
                self.wanted[name] = self._instances[name].record.desired

    @rule(name=NAMES, writes=WRITES)
    def delete(self, name: str, writes: list[bool]) -> None:
        if name in self._instances and name not in self.deletes:
            self.deletes[name] = self.memory.begin(self.memory.registry.delete(name), writes)

    @rule(name=NAMES, event=st.sampled_from([Event.READY, Event.SICK, Event.HOPELESS]))
    def notice(self, name: str, event: Event) -> None:
        if name in self._instances and self._instances[name]._watch is not None:
            watch: MemoryWatch = self._instances[name]._watch
            ready = self._instances[name].phase in (Phase.RUNNING, Phase.UNHEALTHY)
            if event is Event.READY or ready:
                watch.say(event)
                self.memory.settle()

    @rule(name=NAMES)
    def give_up_the_start(self, name: str) -> None:
        if name in self._instances and self._instances[name].phase is Phase.STARTING:
            self._instances[name]._watch.say(Event.UNUSABLE)
            self.memory.settle()

    @rule(name=NAMES)
    def kill_the_process(self, name: str) -> None:
        for process in self.memory.alive(name):
            process.die()
        self.memory.settle()

    @rule(name=NAMES, writes=WRITES)
    def end_as_asked(self, name: str, writes: list[bool]) -> None:
        self.memory.writes = list(writes)
        for process in self.memory.alive(name):
            if process.asked_to_end:
                process.die()
        self.memory.settle()

    @rule(name=NAMES, writes=WRITES)
    def let_the_pause_be_over(self, name: str, writes: list[bool]) -> None:
        if name in self._instances:
            self.memory.writes = list(writes)
            supervisor = self._instances[name]
            supervisor._post(supervisor._generation, Event.RETRY, "")
            self.memory.settle()

    @rule(late=st.data(), event=st.sampled_from([Event.READY, Event.EXITED, Event.HOPELESS]))
    def hear_of_an_earlier_process(self, late: st.DataObject, event: Event) -> None:
        instances = list(self._instances.values())
        present = [supervisor._watch for supervisor in instances]
        earlier = [
            watch
            for watch in self.memory.watches
            if watch not in present and watch.owner in instances
        ]
        if earlier:
            before = {name: each.phase for name, each in self._instances.items()}
            late.draw(st.sampled_from(earlier), "watch").post(event, "late")
            self.memory.settle()
            assert before == {name: each.phase for name, each in self._instances.items()}

    @precondition(lambda self: not self.deletes)
    @rule()
    def kill_the_manager_and_start_another(self) -> None:
        self.memory.begin(self.memory.registry.backlog.flush())
        self.memory.crash()
        self.memory.start()

    @invariant()
    def an_instance_has_one_process_at_most(self) -> None:
        self.memory.settle()
        for name, supervisor in self._instances.items():
            alive = self.memory.alive(name)
            assert len(alive) <= 1, name
            if supervisor.phase in RESTING:
                assert alive == [], (name, supervisor.phase)
        owned = {name for name in ("a", "b") if self.memory.alive(name)}
        assert owned <= set(self._instances), "a process that nobody owns"

    @invariant()
    def ports_are_nobody_elses(self) -> None:
        records = [supervisor.record for supervisor in self._instances.values()]
        ports = [port for record in records for port in (record.port, record.prometheus_port)]
        assert len(set(ports)) == len(ports)
        assert set(self.memory.registry._claims) <= set(self._instances), "nobody has them"

    @invariant()
    def the_disk_has_what_the_manager_has(self) -> None:
        held = {name: supervisor.record for name, supervisor in self._instances.items()}
        waiting = self.memory.registry.backlog._records.values()
        late = {record.spec.name: record for record in waiting}
        assert self.memory.on_disk() | late == held

    @invariant()
    def only_who_asks_changes_what_is_wanted(self) -> None:
        for name, supervisor in self._instances.items():
            if name not in self.deletes:
                assert supervisor.record.desired is self.wanted[name], name

    @invariant()
    def workers_hear_of_running_ones_only_while_they_run(self) -> None:
        routes = {route.name: route.state for route in self.memory.workers.table.routes}
        assert set(routes) == set(self._instances)
        for name, supervisor in self._instances.items():
            assert routes[name] is supervisor.phase.shown
            if routes[name] is RouteState.RUNNING:
                assert self.memory.alive(name), "calls would go to nobody"

    @invariant()
    def deletes_end_with_the_process(self) -> None:
        for name, task in list(self.deletes.items()):
            supervisor = self._instances.get(name)
            if task.done():
                del self.deletes[name]
                if supervisor is None:
                    self.wanted.pop(name, None)
                else:  # it could not be written, or was never granted
                    assert isinstance(task.exception(), TeiManagerError)
                    self.wanted[name] = supervisor.record.desired
            else:
                assert supervisor is not None
                assert supervisor.phase in ENDING, "it waits for nothing"

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self._context.__exit__(None, None, None)
            self._folder.cleanup()


@pytest.mark.timeout(600)
def test_a_manager_keeps_one_process_for_each_instance_and_its_word() -> None:
    run_state_machine_as_test(ManagerMachine, settings=RUNS)
