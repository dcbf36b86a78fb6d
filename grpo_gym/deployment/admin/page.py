"""The status page, and the policy by which a browser runs nothing but what is in it."""

import base64
import hashlib
import re
from importlib.resources import files

PAGE = files("grpo_gym.deployment.admin").joinpath("page.html").read_text(encoding="utf-8")
"""One HTML page that polls /status; needs nothing else."""


def _hash_of(tag: str) -> str:
    """The source expression of the page's one inline element of a kind."""
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash_of('script')}",
        f"style-src {_hash_of('style')}",
        "connect-src 'self'",
        "img-src data:",  # the empty icon, or browsers ask for one
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
