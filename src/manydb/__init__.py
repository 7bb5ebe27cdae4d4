"""One MCP server in front of many SQL databases."""

__version__ = "0.1.0"
