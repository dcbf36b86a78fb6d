"""The external scaler for KEDA: `grpo-gym scaler`. See docs/keda.md. Needs aiohttp and grpcio."""
