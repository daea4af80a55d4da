"""A second model: SmolLM2-135M behind the demo's vision tower, taught by answers alone."""
