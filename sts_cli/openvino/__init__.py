"""OpenVINO, the decoder for CPUs: layers and vision tower as compiled models, kept on disk."""
