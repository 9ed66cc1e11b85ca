"""The three styles in which models write tool calls, each a `CallParser`, and the choice among them."""

from collections.abc import Callable

from truss_model.output.detokenizer import Piece
from truss_model.output.tool_call_json import JsonSpan
from truss_model.output.tool_call_parser import SPACE, CallParser, cut
from truss_model.tokenizer.tool_format import CALL_END, CALL_START, ToolFormat, ToolStyle

_START = CALL_START.encode()
_END = CALL_END.encode()


def call_parser(tool_format: ToolFormat, new_id: Callable[[], str]) -> CallParser:
    match tool_format.style:
        case ToolStyle.MISTRAL_LIST:
            return _MistralList(tool_format, new_id)
        case ToolStyle.MISTRAL_ARGS:
            return _MistralArgs(tool_format, new_id)
        case ToolStyle.HERMES:
            return _Hermes(tool_format, new_id)


class _MistralList(CallParser):
    def _begin(self) -> None:
        self._state = self._open

    def _open(self, piece: Piece, position: int) -> int:
        byte = piece.data[position]
        if byte in SPACE or byte == 0x5B:  # [
            self._keep(piece, position, position + 1)
            if byte == 0x5B:
                self._begin_object()
            return position + 1
        self._begin_object()  # a lone object; anything else fails as one
        return position

    def _after_object(self) -> None:
        self._state = self._between

    def _between(self, piece: Piece, position: int) -> int:
        match piece.data[position]:
            case 0x2C:  # ,
                self._begin_object()
            case 0x5D:  # ]
                self._state = self._skip_space
            case byte if byte not in SPACE:
                self._state = self._content
                return position
        return position + 1


class _MistralArgs(CallParser):
    def __init__(self, tool_format: ToolFormat, new_id: Callable[[], str]) -> None:
        super().__init__(tool_format, new_id)
        self._name = b""
        self._id = b""
        self._span = JsonSpan()

    def _control(self, piece: Piece) -> None:
        if piece.token_id == self._format.args_id and self._state in (self._in_name, self._in_id):
            name, call_id = self._name.decode(errors="replace").strip(), self._id.decode(errors="replace").strip()
            self._emit_call(name, call_id if len(call_id) == 9 and call_id.isascii() and call_id.isalnum() else None)
            self._span = JsonSpan()
            self._state = self._lead_in
        elif piece.token_id == self._format.call_id_id and self._state == self._in_name:
            self._state = self._in_id
        else:
            super()._control(piece)

    def _begin(self) -> None:
        self._name = self._id = b""
        self._state = self._in_name

    def _in_name(self, piece: Piece, position: int) -> int:
        self._keep(piece, position, len(piece.data))
        self._name += piece.data
        return len(piece.data)

    def _in_id(self, piece: Piece, position: int) -> int:
        self._keep(piece, position, len(piece.data))
        self._id += piece.data
        return len(piece.data)

    def _lead_in(self, piece: Piece, position: int) -> int:
        if piece.data[position] not in SPACE:
            self._state = self._in_arguments
            return position
        return position + 1

    def _in_arguments(self, piece: Piece, position: int) -> int:
        end = self._span.scan(piece.data, position)
        self._write(piece.data[position:end])
        if self._span.done:
            self._end_call()
            self._state = self._skip_space
        return end

    def _interrupt(self) -> None:
        if self._state == self._in_arguments:
            self._end_call()
        super()._interrupt()


class _Hermes(CallParser):
    """Finds the tags in the text, where models without control tokens for calls write them.

    White space and a possible beginning of a tag are held back; both are content unless the tag follows. A token that
    is held in part is held as a whole, so that it is still one token when it is returned.
    """

    def __init__(self, tool_format: ToolFormat, new_id: Callable[[], str]) -> None:
        super().__init__(tool_format, new_id)
        self._matched = 0
        self._content_bytes = 0  # of the first piece held, before the part that may be a tag

    def _content(self, piece: Piece, position: int) -> int:
        data, hold = piece.data, position
        for index in range(position, len(data)):
            byte = data[index]
            if byte == _START[self._matched]:
                self._matched += 1
                if self._matched == len(_START):
                    self._start_call(piece, position, hold, index + 1)
                    return index + 1
            elif self._matched or byte not in SPACE:
                self._release()
                self._matched = int(byte == _START[0])
                hold = index + 1 - self._matched
        if hold == len(data):
            self._out.append(cut(piece, position))
            return len(data)
        if not self._raw:
            self._content_bytes = hold - position
        self._keep(piece, position, len(data))
        return len(data)

    def _start_call(self, piece: Piece, position: int, hold: int, end: int) -> None:
        if not self._raw:
            self._content_bytes = hold - position
        self._keep(piece, position, end)
        first = self._raw[0]
        if self._content_bytes:
            self._out.append(cut(first, 0, self._content_bytes))
        self._raw[0] = cut(first, self._content_bytes)
        self._matched = 0
        self._begin_object()

    def _release(self) -> None:
        self._out += self._raw
        self._raw, self._matched = [], 0

    def _after_object(self) -> None:
        self._state = self._close

    def _close(self, piece: Piece, position: int) -> int:
        for index in range(position, len(piece.data)):
            byte = piece.data[index]
            if byte == _END[self._matched]:
                self._matched += 1
                if self._matched == len(_END):
                    self._raw, self._matched = [], 0
                    self._state = self._skip_space
                    return index + 1
            elif self._matched or byte not in SPACE:
                self._release()
                self._state = self._content
                return position
        self._keep(piece, position, len(piece.data))
        return len(piece.data)

    def _interrupt(self) -> None:
        if self._state == self._close:  # the call is complete and emitted; the beginning of its end tag is not content
            self._raw = []
        super()._interrupt()

    def _give_up(self) -> None:
        super()._give_up()
        self._matched = 0
