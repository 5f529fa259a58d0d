"""Frameworks under the tower: LangGraph, pydantic-ai and MCP clients, each in one line.

Rule: the framework keeps its own ways, its control flow included; the tower is the one retry owner.
A framework is imported when its adapter is used.
"""
