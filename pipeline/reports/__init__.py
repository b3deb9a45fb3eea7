"""What people look at: metrics, the contact sheet, exports, and what is in a store."""
