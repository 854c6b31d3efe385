"""One link without its socket: bytes in, events out, output pulled (sans-IO).

Why it is hard: a peer's bytes may be anything at any time, and no exception of theirs may
get out; the two ends are up at different moments; the epoch may change while frames are on
their way (``gate`` keeps what was sent under another one from being delivered).

A link ends in steps. ``close`` says goodbye behind all that is queued and then listens for a
moment, so that the farewell is not lost to a reset; ``disposal`` tells the driver what to do
with the connection meanwhile. ``Ended`` comes out once, at the first of these steps.
"""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.errors import WireError, WrongRole
from meshsvc.link import preface
from meshsvc.link.admission import Known, Local, heals
from meshsvc.link.controls import Controls
from meshsvc.link.events import (
    Disposal,
    Dropped,
    Ended,
    EpochAgreed,
    EpochParted,
    EpochSeen,
    Event,
    Intent,
    Limits,
    Peer,
    Proven,
    Received,
    Up,
)
from meshsvc.link.gate import EpochGate
from meshsvc.link.greeting import Greeting, printable
from meshsvc.link.handshake import (
    DEADLINE_S,
    BecomeUp,
    End,
    Handshake,
    SayConfirm,
    SayHello,
    SayRefusal,
)
from meshsvc.link.outbox import Outbox
from meshsvc.model import Epoch, LinkClass, Sent
from meshsvc.wire.frames import MAX_FRAME, MAX_FRAME_BEFORE_AUTH, FrameBuffer, pack
from meshsvc.wire.messages import Bye, Confirm, Envelope, EpochIs, Hello, Ping, Pong, Refusal
from meshsvc.wire.registry import Role, decode_message, encode_message

LINGER_S = 1.0
"""After our Bye, how long we listen for the peer's last words before closing."""


class Session:
    """One end of one link.

    Args:
        me: who this node is.
        known: asked for what this node knows, whenever a peer is judged.
        limits: the bounds of the outbox.
        now: seconds.
        intent: what this side dials for; None when it accepted the connection.
        preface_read: the acceptor's preface was taken from the stream before.
    """

    def __init__(
        self,
        me: Local,
        known: Callable[[], Known],
        limits: Limits,
        now: float,
        intent: Intent | None = None,
        *,
        preface_read: bool = False,
    ) -> None:
        self.disposal = Disposal.KEEP
        self.peer: Peer | None = None
        self._dialing = intent is not None
        self._gate = EpochGate()
        wanted = intent is None and not preface_read
        self._greeting = Greeting(me, known, intent, self._gate, preface_wanted=wanted)
        self._outbox = Outbox(limits.max_frames, limits.max_bytes)
        self._frames = FrameBuffer(MAX_FRAME_BEFORE_AUTH)
        self._controls: Controls | None = None
        self._up = self._proven = self._over = self._held = False
        self._delivering = True
        self._until: float | None = now + DEADLINE_S
        self._events: list[Event] = []
        self._handshake = Handshake(dialing=self._dialing)
        if intent is not None:
            self._outbox.put_urgent(preface.pack(intent.link_class, me.node_id))
        self._perform(now)

    # --- what the driver and the owner use -----------------------------------------------

    @property
    def hello(self) -> Hello | None:
        """The peer's Hello, as soon as it came, whether it was accepted or not."""
        return self._greeting.hello

    @property
    def up(self) -> bool:
        """Whether the link is up at this end and nobody said goodbye."""
        return self._up and not self._over

    @property
    def was_up(self) -> bool:
        """Whether the link ever came up at this end."""
        return self._up

    @property
    def agreed(self) -> bool:
        """Whether envelopes may be sent: up, and both ends at the same epoch."""
        return self._up and not self._over and self._gate.agreed

    @property
    def epoch(self) -> Epoch:
        """This side's epoch on this link; 0.0 always on a control link."""
        return self._gate.mine

    @property
    def rtt_s(self) -> float | None:
        """The last round trip in seconds."""
        return self._controls.alive.rtt_s if self._controls is not None else None

    @property
    def has_output(self) -> bool:
        """Whether ``take_output`` would give something."""
        return bool(self._outbox) or (self.up and self._controls is not None and self._controls.due)

    def deadline(self) -> float | None:
        """When ``tick`` is wanted, in seconds, or None."""
        if self.disposal is not Disposal.KEEP:
            return None
        if self._until is None and self._controls is not None:
            return self._controls.alive.deadline()
        return self._until

    def take_events(self) -> list[Event]:
        """What happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def take_output(self, max_bytes: int, now: float) -> bytes:
        """Bytes to write, about ``max_bytes`` at most."""
        if self.disposal is Disposal.RESET:
            return b""
        if self._controls is not None and self._controls.due and not self._over:
            for message in self._controls.take(now):
                self._outbox.put_urgent(_frame(message))
        return self._outbox.take(max_bytes, urgent_only=self._held)

    def blocked(self, since: float | None) -> None:
        """The connection takes no output since then, or does again (None)."""
        if self._controls is not None:
            self._controls.alive.blocked_since = since

    def send(self, message: object) -> Sent:
        """Queue a message; DISCONNECTED unless up, and for envelopes unless agreed."""
        if self._over or not self._up or (type(message) is Envelope and not self._gate.agreed):
            return Sent.DISCONNECTED
        return self._outbox.put(_frame(message))

    def send_body(self, body: bytes) -> Sent:
        """Queue an encoded envelope; DISCONNECTED unless the link is up and agreed."""
        if self._over or not self._up or not self._gate.agreed:
            return Sent.DISCONNECTED
        return self._outbox.put(pack(body))

    def set_epoch(self, epoch: Epoch) -> None:
        """This side adopted an epoch; the peer of a data link is told in band."""
        if self._greeting.link_class is LinkClass.DATA:
            before = self._gate.agreed
            self._gate.adopt(epoch)
            self._epochs_moved(before)

    def hold(self, held: bool) -> None:
        """Keep all but control messages back, until what went another way has arrived."""
        self._held = held

    def close(self, reason: str, text: str, now: float, *, delivering: bool = False) -> None:
        """Say goodbye and end; with ``delivering``, what still comes is delivered."""
        if self._over:
            return
        if not self._up:
            self._decline(reason, text, now)
            return
        self._delivering = delivering
        self._outbox.put_last(_frame(Bye(reason, text)))
        self._until = now + LINGER_S
        self._finish(reason, text, remote=False, now=now)

    def lost(self, reason: str, text: str, now: float) -> None:
        """The connection is gone."""
        self.disposal = Disposal.RESET
        self._finish(reason, text, remote=False, now=now)

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self._until is not None:
            if now >= self._until:
                self._run_out(now)
        elif self._controls is not None and not self._over:
            self._look_alive(self._controls, now)

    # --- bytes in ------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes of the peer; whatever they are, the outcome is events, not an error."""
        if self.disposal is not Disposal.KEEP:
            return
        try:
            if self._controls is None:
                self._receive_early(data, now)
            else:
                self._controls.alive.received_at = now
                self._receive_late(self._controls, data, now)
        except WireError as error:
            self._break(error.reason, str(error), now)
        except Exception as error:  # a hole in our checks must not cost more than the link
            self._break("malformed", f"{type(error).__name__}: {error}", now)

    def _receive_early(self, data: bytes, now: float) -> None:
        data = self._greeting.take_preface(data)
        role = Role.ACCEPTOR if self._dialing else Role.DIALER
        while data and self.disposal is Disposal.KEEP:
            if self._controls is not None:
                self._receive_late(self._controls, data, now)
                return
            bodies, data = self._frames.take(data, 1)
            for body in bodies:
                self._greet(decode_message(body, role), now)

    def _receive_late(self, controls: Controls, data: bytes, now: float) -> None:
        for body in self._frames.feed(data):
            if self.disposal is not Disposal.KEEP:
                return  # the peer said goodbye, what is behind that does not count
            try:
                message = decode_message(body, Role.PEER)
            except WrongRole:
                self._late_refusal(body, now)
                return
            if not self._proven:
                self._proven = True
                self._events.append(Proven())
            if type(message) is Envelope:
                self._envelope(message)
            else:
                self._message(controls, message, now)

    def _late_refusal(self, body: bytes, now: float) -> None:
        # The acceptor may still refuse a dialer that is up already, until it is up itself.
        if not self._dialing or self._proven:
            raise WrongRole("the link is up, the messages of its handshake are over")
        self._greet(decode_message(body, Role.ACCEPTOR), now)

    def _greet(self, message: object, now: float) -> None:
        match message:
            case Hello() if self.hello is None:
                self._judge(message, now)
            case Confirm() if self.hello is not None:
                refusal = self._greeting.judge_confirm(message)
                if refusal is None:
                    self._handshake.confirmed()
                else:
                    self._handshake.declined(refusal)
            case Refusal():
                self._refused(message)
            case _:
                raise WireError(f"{type(message).__name__} came out of turn")
        self._perform(now)

    def _judge(self, hello: Hello, now: float) -> None:
        refusal = self._greeting.judge(hello)
        if refusal is None:
            self.peer = self._greeting.peer()
            self._handshake.hello_accepted()
            return
        if refusal.reason == "epoch-high":
            self._events.append(EpochSeen(self._gate.theirs))
        self._handshake.declined(refusal)

    def _refused(self, refusal: Refusal) -> None:
        refusal, ahead = self._greeting.refused(refusal)
        if ahead is not None:
            self._events.append(EpochSeen(ahead))
        self.disposal = Disposal.FLUSH
        self._handshake.refusal_received(refusal)

    def _decline(self, reason: str, text: str, now: float) -> None:
        mine = self._gate.mine
        self._handshake.declined(Refusal(reason, text, mine.term, mine.attempt, heals(reason)))
        self._perform(now)

    def _perform(self, now: float) -> None:
        for effect in self._handshake.take_effects():
            match effect:
                case SayHello():
                    self._outbox.put_urgent(_frame(self._greeting.my_hello()))
                case SayConfirm():
                    assert self._greeting.intent is not None
                    self._outbox.put_urgent(_frame(Confirm(self._greeting.intent.dial)))
                case SayRefusal(refusal):
                    self._outbox.put_last(_frame(refusal))
                    self.disposal = Disposal.FLUSH
                case BecomeUp():
                    self._become_up(now)
                case End():
                    self._end(effect)

    def _become_up(self, now: float) -> None:
        assert self.peer is not None
        self._up = True
        self._until = None
        self._controls = Controls(self._gate, now)
        self._frames.limit = MAX_FRAME
        self._events.append(Up(self.peer))
        self._epochs_moved(before=False)
        if not self._dialing:
            self._proven = True
            self._events.append(Proven())
        self._look_alive(self._controls, now)

    def _envelope(self, envelope: Envelope) -> None:
        if not self._delivering:
            return
        objection = self._gate.objection(envelope)
        self._events.append(Dropped(envelope, objection) if objection else Received(envelope))

    def _message(self, controls: Controls, message: object, now: float) -> None:
        match message:
            case Ping(number):
                controls.ping(number)
            case Pong(number):
                controls.alive.pong(number, now)
            case EpochIs(term, attempt):
                self._peer_moved(Epoch(term, attempt))
            case Bye(reason, text):
                self.disposal = Disposal.FLUSH
                self._finish(printable(reason), printable(text), remote=True, now=now)
            case _:
                if self._delivering:
                    self._events.append(Received(message))

    def _peer_moved(self, epoch: Epoch) -> None:
        if self._greeting.link_class is LinkClass.CONTROL:
            raise WireError("EpochIs came over a control link, which has no epoch")
        before = self._gate.agreed
        self._gate.peer_is_at(epoch)
        if epoch > self._gate.mine:
            self._events.append(EpochSeen(epoch))
        self._epochs_moved(before)

    def _epochs_moved(self, before: bool) -> None:
        if not self.up or self._greeting.link_class is LinkClass.CONTROL:
            return
        if self._gate.agreed:
            self._events.append(EpochAgreed(self._gate.mine))
        elif before:
            self._events.append(EpochParted(self._gate.mine, self._gate.theirs))

    def _look_alive(self, controls: Controls, now: float) -> None:
        dead = controls.tick(now)
        if dead is not None:
            self.disposal = Disposal.RESET
            self._finish(dead.reason, dead.text, remote=False, now=now)

    def _run_out(self, now: float) -> None:
        self._until = None
        if self._over:
            self.disposal = Disposal.FLUSH
        else:
            text = f"the handshake took longer than {DEADLINE_S:g} s"
            self._decline("timeout", text, now)

    def _break(self, reason: str, text: str, now: float) -> None:
        text = printable(text)
        self.disposal = Disposal.FLUSH
        if not self._up:
            self._decline(reason, text, now)
        else:
            self._outbox.put_last(_frame(Bye(reason, text)))
            self._finish(reason, text, remote=False, now=now)

    def _finish(self, reason: str, text: str, *, remote: bool, now: float) -> None:
        self._handshake.ended(reason, text, heals=heals(reason), remote=remote)
        self._perform(now)

    def _end(self, end: End) -> None:
        self._over = True
        self._held = False
        self._outbox.seal()
        self._events.append(Ended(end.reason, end.text, end.heals, end.remote))


def _frame(message: object) -> bytes:
    return pack(encode_message(message))
