"""What the two ends say before a link is up, and the judgement of what the peer said.

The order of phases is the handshake machine's; here is the content: the preface, this
side's Hello, whether the peer's Hello agrees with what went before it, and who the peer is.
"""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.errors import WireError
from meshsvc.link import preface
from meshsvc.link.admission import Known, Local, Plea, judge, judge_again, malformed
from meshsvc.link.events import Intent, Peer
from meshsvc.link.gate import EpochGate
from meshsvc.link.pairing import LinkKey
from meshsvc.model import Address, Epoch, Incarnation, LinkClass, NodeId, NodeInfo
from meshsvc.wire.messages import Confirm, Hello, Refusal

MAX_TEXT = 500
"""Characters of a peer's explanation that are kept and logged."""


def printable(text: str) -> str:
    """A peer's words as they may be shown and logged."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])


class Greeting:
    """One handshake's content. ``gate`` gets the epochs that the two Hellos tell."""

    def __init__(
        self,
        me: Local,
        known: Callable[[], Known],
        intent: Intent | None,
        gate: EpochGate,
        *,
        preface_wanted: bool,
    ) -> None:
        self.me = me
        self.intent = intent
        self.hello: Hello | None = None
        self.link_class = intent.link_class if intent is not None else None
        self._known = known
        self._gate = gate
        self._preface = b""
        self._preface_wanted = preface_wanted
        self._claimed: preface.Preface | None = None

    def take_preface(self, data: bytes) -> bytes:
        """Take what is missing of the preface from ``data``; what is behind it.

        Raises:
            WireError: at the first byte that cannot be part of a preface.
        """
        if not self._preface_wanted:
            return data
        need = preface.PREFACE_BYTES - len(self._preface)
        self._preface += data[:need]
        if not preface.could_be(self._preface):
            raise WireError("the stream does not start with a meshsvc preface")
        if len(self._preface) == preface.PREFACE_BYTES:
            self._preface_wanted = False
            self._claimed = preface.parse(self._preface)
        return data[need:]

    def my_hello(self) -> Hello:
        """This side's Hello; the acceptor's echoes the dialer's count and class."""
        me, hello = self.me, self.hello
        if self.intent is not None:
            dial, expect = self.intent.dial, self.intent.expect
            self._adopt_epoch()
        else:
            assert hello is not None
            dial, expect = hello.dial, ""
        assert self.link_class is not None
        return Hello(
            protocol_min=me.protocol_min,
            protocol_max=me.protocol_max,
            features=me.features,
            cluster=me.cluster,
            node_id=me.node_id,
            name=me.name,
            incarnation=me.incarnation,
            host=me.address.host,
            port=me.address.port,
            shards=me.shards,
            link_class=int(self.link_class),
            term=self._gate.announced.term,
            attempt=self._gate.announced.attempt,
            dial=dial,
            expected=expect,
        )

    def judge(self, hello: Hello) -> Refusal | None:
        """Take the peer's Hello: why it cannot have the link, or None.

        Raises:
            WireError: when the Hello contradicts itself or what came before it.
        """
        problem = malformed(hello) or self._contradiction(hello)
        if problem:
            raise WireError(f"the Hello is wrong: {problem}")
        self.hello = hello
        if self.intent is None:
            self.link_class = LinkClass(hello.link_class)
            self._adopt_epoch()
        self._gate.greeted(Epoch(hello.term, hello.attempt))
        return judge(self._plea(hello))

    def judge_confirm(self, confirm: Confirm) -> Refusal | None:
        """Take the dialer's Confirm: why it cannot have the link after all, or None.

        Raises:
            WireError: when the Confirm is for another dial.
        """
        assert self.hello is not None
        if confirm.dial != self.hello.dial:
            raise WireError("the Confirm is for another dial")
        return judge_again(self._plea(self.hello))

    def refused(self, refusal: Refusal) -> tuple[Refusal, Epoch | None]:
        """Take the peer's Refusal: the same fit to be shown, and its epoch if it is ahead."""
        theirs = Epoch(refusal.term, refusal.attempt)
        low = refusal.reason == "epoch-low" and theirs.minted and theirs > self._gate.mine
        reason, text = printable(refusal.reason), printable(refusal.text)
        shown = Refusal(reason, text, refusal.term, refusal.attempt, refusal.heals)
        return shown, theirs if low else None

    def peer(self) -> Peer:
        """Who the peer is, once its Hello was judged."""
        hello = self.hello
        assert hello is not None
        node = NodeId(hello.node_id)
        address = Address(hello.host, hello.port)
        info = NodeInfo(node, hello.name, Incarnation(hello.incarnation), address, hello.shards)
        ours = self.intent is not None
        ends = (self.me.node_id, node) if ours else (node, self.me.node_id)
        features = tuple(str(each) for each in hello.features)
        key = LinkKey(*ends, hello.dial)
        return Peer(info, LinkClass(hello.link_class), features, key, ours)

    def _adopt_epoch(self) -> None:
        if self.link_class is LinkClass.DATA:
            self._gate.adopt(self._known().epoch)
            self._gate.announce()

    def _plea(self, hello: Hello) -> Plea:
        expect = self.intent.expect if self.intent is not None else ""
        dialing = self.intent is not None
        return Plea(self.me, hello, self._known(), self._gate.announced, dialing, expect)

    def _contradiction(self, hello: Hello) -> str | None:
        if self.intent is not None:
            if hello.link_class != self.intent.link_class:
                return "the acceptor answered for another link class"
            if hello.dial != self.intent.dial:
                return "the acceptor answered another dial"
        if self._claimed is not None:
            if hello.node_id != self._claimed.node_id:
                return "the preface named another node"
            if hello.link_class != self._claimed.link_class:
                return "the preface named another link class"
        if hello.link_class == LinkClass.CONTROL and (hello.term or hello.attempt):
            return "a control link has no epoch"
        return None
