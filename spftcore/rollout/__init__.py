"""Generation back ends behind one small interface."""
