"""The Streamlit script and the server that runs it."""
