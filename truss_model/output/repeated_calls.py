"""Holds a tool call back while it repeats an earlier one of the same answer, word for word. Pure machine."""

from truss_model.output.tool_call_parser import ToolCallDelta


class RepeatedCalls:
    """`add` every delta of calls, and say where a call ends by `end_call`.

    Small models under `tool_choice: required` write one call again and again; a client would run it every time.
    """

    def __init__(self) -> None:
        self._earlier: set[tuple[str, str]] = set()
        self._name = ""
        self._arguments = ""
        self._held: list[ToolCallDelta] = []

    def add(self, delta: ToolCallDelta) -> list[ToolCallDelta]:
        """Return what may be shown: nothing while the call can still become an earlier one."""
        if delta.name is not None:
            self._name, self._arguments, self._held = delta.name, "", []
        self._arguments += delta.arguments
        self._held.append(delta)
        if any(name == self._name and text.startswith(self._arguments) for name, text in self._earlier):
            return []
        shown, self._held = self._held, []
        return shown

    def end_call(self) -> bool:
        """Whether the call that ends here repeats an earlier one; it was held back entirely then."""
        call = (self._name, self._arguments)
        repeated = call in self._earlier
        self._earlier.add(call)
        return repeated

    def release(self) -> list[ToolCallDelta]:
        """What is held of a call that ends here without being an earlier one."""
        shown, self._held = self._held, []
        return shown
