"""Encoders: a file a family. The table has them by the kind of model that they load (``rag.models.resolve``)."""

ENCODERS = {
    "onnx-encoder": ".dense:OnnxEncoder",
    "sentence-transformers": ".dense:SentenceTransformerEncoder",
    "transformers": ".dense:SentenceTransformerEncoder",
}
