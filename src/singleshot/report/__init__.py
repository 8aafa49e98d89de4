"""Pictures and pages that explain a model: precision-recall curves."""
