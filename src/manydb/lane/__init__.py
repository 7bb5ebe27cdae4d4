"""The fast lane: plain calls of the core tools, answered beside the transport.

FastMCP's own way costs more than a small query does. What the lane takes is checked by the protocol library's own
functions and answered by the same tools; a call that is not plainly in order, and every other message, passes on.
"""

from manydb.lane.calls import Call, Lane, beside

__all__ = ["Call", "Lane", "beside"]
