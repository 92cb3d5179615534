import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.HexFormat;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * Verify checks the signature of a callback of Weir. As a program:
 * WEIR_CALLBACK_SECRET=... java Verify.java TIMESTAMP ID SIGNATURE < body
 */
public class Verify {
    /**
     * Timestamp, id and signature are the headers Weir-Timestamp, Weir-Event-Id and
     * Weir-Signature; body is the body as it came, before anything has parsed it.
     */
    public static boolean verify(String secret, String timestamp, String id, String signature, byte[] body) throws Exception {
        try {
            if (Math.abs(Instant.now().getEpochSecond() - Long.parseLong(timestamp)) > 300) {
                return false; // too old to be believed
            }
        } catch (NumberFormatException e) {
            return false;
        }
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(secret.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
        mac.update((timestamp + "." + id + ".").getBytes(StandardCharsets.UTF_8));
        String want = "v1=" + HexFormat.of().formatHex(mac.doFinal(body));
        return MessageDigest.isEqual(want.getBytes(StandardCharsets.UTF_8), signature.getBytes(StandardCharsets.UTF_8));
    }

    public static void main(String[] args) throws Exception {
        boolean ok = verify(System.getenv("WEIR_CALLBACK_SECRET"), args[0], args[1], args[2], System.in.readAllBytes());
        System.out.println(ok ? "ok" : "wrong");
        System.exit(ok ? 0 : 1);
    }
}
