"""What crosses a wire: the events that come in, the events that go out, and one catalogue of both."""
