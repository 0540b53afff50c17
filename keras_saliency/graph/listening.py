"""Functions that stand before the `call` of layers for a while."""

import contextlib


@contextlib.contextmanager
def listening(handlers):
    """Let functions stand before the `call` of layers and operations, for as long as this lasts.

    Args:
        handlers: Dict from operation to a function of `(call, args, kwargs)`, `call` being what
            the operation does itself, that returns the outputs.
    """
    before = []
    try:
        for operation, handler in handlers.items():
            for name in ("call", "quantized_call"):
                own = getattr(operation, name, None)
                if own is None:
                    continue
                before.append((operation, name, operation.__dict__.get(name)))

                def stand_in(*args, own=own, handler=handler, **kwargs):
                    return handler(own, args, kwargs)

                operation.__dict__[name] = stand_in
        yield
    finally:
        for operation, name, value in reversed(before):
            if value is None:
                del operation.__dict__[name]
            else:
                operation.__dict__[name] = value
