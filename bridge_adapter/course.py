"""Whether a stream of events keeps to the contract: what was promised comes, nothing after the end. Pure."""

from bridge_adapter.wire import Broken, Delta, Done, Event, Finish, ToolCall


class Course:
    """Check every event of one upstream call; raises Broken for a choice that nobody asked for or that has no end."""

    def __init__(self, choices: int) -> None:
        self._open = set(range(choices))

    def check(self, event: Event) -> None:
        if type(event) is Delta or type(event) is ToolCall:
            if event.index not in self._open:
                raise Broken("text of a choice that is not open")
        elif isinstance(event, Finish):
            if event.index not in self._open:
                raise Broken("an end of a choice that is not open")
            self._open.remove(event.index)
        elif isinstance(event, Done) and self._open:
            raise Broken("the end of the stream before the end of every choice")
