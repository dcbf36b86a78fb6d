"""The external scaler for KEDA: `grpo-gym scaler`; docs/how_to/keda.md.

Needs aiohttp and grpcio.
"""
