import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/** Reads events with generated Java classes: says in a line for each line of standard input whether it can. */
public final class CheckModels {
    private CheckModels() {}

    public static void main(String[] arguments) throws Exception {
        var json = new ObjectMapper();
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines();
        for (String line : (Iterable<String>) lines::iterator) {
            var asked = json.readTree(line);
            var type = Class.forName("inmail.events." + asked.get("class").asText());
            try {
                json.treeToValue(asked.get("event"), type);
                System.out.println("read");
            } catch (JsonProcessingException error) {
                System.out.println("refused: " + error.getOriginalMessage().lines().findFirst().orElse(""));
            }
        }
    }
}
