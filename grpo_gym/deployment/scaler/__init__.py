"""An external scaler for KEDA."""
